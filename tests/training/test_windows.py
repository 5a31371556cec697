"""Trials of a model whose attention is computed in windows, from its training to the slimmed model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.tiny import images, logits, make_spec

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step
from autoslim.cost import count_flops, predict, predict_params
from autoslim.data import PreparedDataset
from autoslim.export.artifact import load, load_config
from autoslim.methods import METHODS, solve
from autoslim.training import BaseRequest, TrialContext, prepare_base, run_trial

CPU = torch.device("cpu")
EPOCHS = 15.0


@pytest.fixture(scope="module")
def base_of_windows(
    tmp_path_factory: pytest.TempPathFactory, digits: PreparedDataset, request_of: Callable[..., BaseRequest], drain: Callable
) -> Path:
    folder = tmp_path_factory.mktemp("windows") / "model"
    drain(prepare_base(folder, request_of(epochs=EPOCHS).replace(model=make_spec("windows")), digits, device=CPU))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", ["width", "vit_slim"])
def test_a_trial_slims_it_to_the_budget_and_it_still_tells_digits_apart(
    method: str,
    base_of_windows: Path,
    digits: PreparedDataset,
    request_of: Callable[..., BaseRequest],
    drain: Callable,
    tmp_path: Path,
):
    context = TrialContext.open(base=base_of_windows, dataset=digits.path, device=CPU)
    shape = context.dense.shape
    assert shape.windowed
    budget = predict(shape, Plan.dense(shape)).total // 2
    solved = solve(METHODS[method], shape, Plan.dense(shape), {}, budget)
    training = request_of(epochs=EPOCHS, distillation=0.5).training
    recipe = Recipe(steps=(Step(method=method, knobs=solved.knobs),), budget=budget, training=training, seed=0)
    _, result = drain(run_trial(recipe, context, tmp_path, budget_label="50%"))
    folder = tmp_path / "model"
    config, model = load_config(folder), load(folder)
    assert 0.97 * budget < count_flops(model, 32) == predict(shape, config.plan).total <= budget
    assert sum(p.numel() for p in model.parameters()) == predict_params(shape, config.plan)
    # Ten classes: a tenth by chance.
    assert result.accuracy > 0.4
    assert logits(model, images(2)).shape == (2, 10)
