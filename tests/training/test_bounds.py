"""A budget for every image, which is the default, and one for their mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.core.result import Outcome, Phase
from autoslim.cost import count_flops, predict
from autoslim.errors import TrialError
from autoslim.export.artifact import SlimConfig, load, load_config
from autoslim.methods.layers.token_counts import image_flops, token_counts
from autoslim.report.card import render_card
from autoslim.training import TrialContext, run_trial
from autoslim.training.checkpoint import load_checkpoint
from autoslim.training.model_checks import check_flops

MakeRecipe = Callable[..., Recipe]
# From the class token's attention, images have lives of their own from the start; uniform weights take longer to train apart.
THRESHOLD = {"mode": "threshold", "start": "attention", "ends": "drops", "temperature": 4.0}


def validation_flops(context: TrialContext, config: SlimConfig, folder: Path) -> torch.Tensor:
    """Counted anew on the model that was saved."""
    model = load(folder)
    loader = context.loader(context.splits.validation, config.recipe.training, seed=0, train=False)
    counts = torch.cat([token_counts(model, images_B3HW) for images_B3HW, _ in loader.epoch(0)])
    return image_flops(model, config.shape, config.plan, counts)


def run(recipe: Recipe, context: TrialContext, drain, folder: Path) -> tuple[Outcome, SlimConfig]:
    _, outcome = drain(run_trial(recipe, context, folder, budget_label="50%"))
    return outcome, load_config(folder / "model")


def card(config: SlimConfig) -> str:
    judged = {"test/slimmed": 0.5, "test/dense": 0.5, "validation/dense": 0.5}
    config = config.replace(accuracy={**config.accuracy, **judged}, images={**config.images, "test": 10})
    return render_card(config, job="digits-1", trial=3, source="digits", report="")


@pytest.mark.parametrize("class_query", [False, True])
def test_by_default_every_image_stays_within_the_budget(
    class_query: bool, context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    made = make_recipe("life_regression", share=0.5, knobs=THRESHOLD).replace(class_query=class_query)
    outcome, config = run(made, context, drain, tmp_path)
    flops = validation_flops(context, config, tmp_path / "model")
    assert outcome.flops == outcome.flops_predicted == config.flops.fvcore == count_flops(load(tmp_path / "model"), 32)
    assert outcome.flops_mean == config.flops.mean == math.ceil(flops.double().mean())
    assert outcome.flops_max == config.flops.max == flops.max()
    assert outcome.flops_mean < outcome.flops_max <= outcome.flops <= made.budget
    assert "The budget holds for every image." in card(config)
    assert f"| validation images, on average | {outcome.flops_mean:,} |" in card(config)


def test_thresholds_are_set_before_the_tuning_and_survive_its_average(
    context: TrialContext, make_recipe: MakeRecipe, tmp_path: Path
):
    made = make_recipe("dps", share=0.6, knobs={"adaptive": True}, epochs=4.0)
    tuned = 0
    for report in run_trial(made, context, tmp_path):
        tuned += report.phase == Phase.FINETUNE
        if tuned == 2:
            break
    saved = load_checkpoint(tmp_path / "checkpoint")
    assert saved is not None
    # Minus infinity, where thresholds start, is no number any more once it has been averaged.
    thresholds = {name: tensor for name, tensor in saved[0].items() if name.endswith("threshold")}
    assert any(name.startswith("average") for name in thresholds)
    assert all(tensor.isfinite().all() for tensor in thresholds.values())


def test_a_budget_for_the_mean_holds_on_the_validation_images(
    context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    made = make_recipe("life_regression", share=0.5, knobs=THRESHOLD).replace(bound="mean")
    outcome, config = run(made, context, drain, tmp_path)
    flops = validation_flops(context, config, tmp_path / "model")
    assert outcome.flops == outcome.flops_mean == config.flops.held == math.ceil(flops.double().mean())
    assert 0.95 * made.budget < outcome.flops <= made.budget < outcome.flops_predicted
    assert outcome.flops_max == flops.max() <= outcome.flops_predicted == config.flops.fvcore
    assert "The budget is for their mean." in card(config)


@pytest.mark.slow
def test_a_trial_for_the_mean_goes_on_to_the_same_model(
    open_context: Callable[[], TrialContext], make_recipe: MakeRecipe, drain, tmp_path: Path
):
    made = make_recipe("life_regression", share=0.5, knobs=THRESHOLD, epochs=2.6).replace(bound="mean")
    reports, outcome = drain(run_trial(made, open_context(), tmp_path / "undisturbed"))
    stopped = run_trial(made, open_context(), tmp_path / "stopped")
    for _ in range(len(reports) - 1):
        next(stopped)
    stopped.close()
    _, resumed = drain(run_trial(made, open_context(), tmp_path / "stopped"))
    assert resumed.replace(seconds=0.0) == outcome.replace(seconds=0.0)


def test_fixed_counts_are_the_same_under_either_bound(context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path):
    made = make_recipe("life_regression", share=0.5)
    one, config = run(made, context, drain, tmp_path / "max")
    other, _ = run(made.replace(bound="mean"), context, drain, tmp_path / "mean")
    changed = {"recipe": made, "seconds": 0.0}
    assert one.replace(**changed) == other.replace(**changed)
    assert one.flops == one.flops_mean == one.flops_max == other.flops <= made.budget
    assert "on average" not in card(config)


def test_the_mean_is_what_a_budget_for_the_mean_is_held_against(context: TrialContext):
    plan = Plan.dense(context.dense.shape)
    flops = predict(context.dense.shape, plan)
    counts = {"fvcore": flops.total, "torch": flops.matmuls}
    check_flops(flops, plan, **counts, budget=flops.total - 1, held=flops.total - 1)
    with pytest.raises(TrialError, match=r"on average, above the budget"):
        check_flops(flops, plan, **counts, budget=flops.total, held=flops.total + 1)
    with pytest.raises(TrialError, match=r"above the budget"):
        check_flops(flops, plan, **counts, budget=flops.total - 1)
