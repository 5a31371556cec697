"""A finished model that is fine-tuned for longer."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.marks import CI_ONLY

from autoslim.core.score import ACCURACY
from autoslim.cost import count_flops
from autoslim.export.artifact import load, load_config
from autoslim.training import run_trial
from autoslim.training.longer import TunedLonger, tune_longer


@pytest.fixture
def finished(context, make_recipe, drain, tmp_path: Path) -> Path:
    drain(run_trial(make_recipe("merge", epochs=1.0, lr=2e-3), context, tmp_path / "trial", budget_label="60%"))
    return tmp_path / "trial" / "model"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_longer_training_is_measured_beside_the_shorter_and_costs_the_same(context, drain, finished: Path, tmp_path: Path):
    before = load_config(finished)
    reports, tuned = drain(tune_longer(finished, context, tmp_path / "work", epochs=2.0))
    after = load_config(tmp_path / "work" / "model")
    assert [report.epoch for report in reports] == [2.0, 3.0]
    assert tuned.before == before.score_on("validation")
    judged = {report.epoch: report.metrics["accuracy"] for report in reports}
    assert tuned.after == after.score_on("validation") == max(judged.values()) == judged[tuned.kept_epoch]
    assert after.kept_epoch == tuned.kept_epoch
    # A fifth of the first epochs' learning has been done: this model has far to go.
    assert tuned.is_better
    assert (after.recipe.training.epochs, after.recipe.steps) == (3.0, before.recipe.steps)
    assert count_flops(load(tmp_path / "work" / "model"), 32) == after.flops.fvcore == before.flops.fvcore


@pytest.mark.slow
@pytest.mark.short
def test_an_interrupted_fine_tuning_ends_as_one_that_was_not(context, drain, finished: Path, tmp_path: Path):
    drain(tune_longer(finished, context, tmp_path / "whole", epochs=2.0))
    with contextlib.closing(tune_longer(finished, context, tmp_path / "work", epochs=2.0)) as reports:
        next(reports)
    left, _ = drain(tune_longer(finished, context, tmp_path / "work", epochs=2.0))
    assert len(left) == 1
    one, other = weights(tmp_path / "whole" / "model"), weights(tmp_path / "work" / "model")
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("method", [pytest.param(name, marks=CI_ONLY) for name in ("sit", "dps", "vit_slim")])
def test_every_kind_of_method_can_be_tuned_for_longer(context, make_recipe, drain, tmp_path: Path, method: str):
    drain(run_trial(make_recipe(method, epochs=1.0), context, tmp_path / "trial", budget_label="60%"))
    folder = tmp_path / "trial" / "model"
    _, tuned = drain(tune_longer(folder, context, tmp_path / "work", epochs=1.0))
    assert tuned.after == load_config(tmp_path / "work" / "model").score_on("validation")
    assert load(tmp_path / "work" / "model")(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_of_equals_the_shorter_stays():
    tuned = TunedLonger(epochs=5.0, before=0.7012, after=0.7012, seconds=1.0)
    assert not tuned.is_better
    expected = "5 more epochs: validation accuracy 70.12% before, 70.12% after; the shorter training stays"
    assert tuned.describe(ACCURACY) == expected
    assert ACCURACY.spoken(tuned.before, 500) in tuned.describe(ACCURACY, 500)
    assert tuned.replace(after=0.714).describe(ACCURACY).endswith("71.40% after; the longer training is kept")
