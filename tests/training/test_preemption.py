"""A trial that has to end in the middle of an epoch goes on from there, to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.marks import CI_ONLY

from autoslim.core.recipe import Knobs, Recipe
from autoslim.core.result import EpochReport, Phase
from autoslim.errors import DivergedError, PreemptedError
from autoslim.training import TrialContext, loop, run_trial
from autoslim.training.checkpoint import load_checkpoint

MakeRecipe = Callable[..., Recipe]
CLOCK = ("images_per_second", "loader_wait")


class Notice:
    """Comes at the question of this number, and stays."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self) -> bool:
        self._left -= 1
        return self._left <= 0


def facts(report: EpochReport) -> tuple[Phase, float, dict[str, float]]:
    return report.phase, report.epoch, {name: value for name, value in report.metrics.items() if name not in CLOCK}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


def try_until_it_ends(recipe: Recipe, context: TrialContext, folder: Path, *, every: int) -> Iterator[tuple[int, EpochReport]]:
    """The reports of a trial that has to leave after every so many steps, each with the number of its try."""
    for number in range(40):
        run = run_trial(recipe, dataclasses.replace(context, preempted=Notice(every)), folder)
        try:
            while True:
                yield number, next(run)
        except PreemptedError as left:
            assert "goes on from there" in str(left)
        except StopIteration:
            return
    raise AssertionError("the trial does not end")


OPTIONS: list[tuple[str, Knobs]] = [
    ("merge", {"embedding": "learned", "criteria": "several", "consistency": 1.0}),
    ("dps", {"counts": "pyramid", "learn_from": "task", "noise": 0.5, "gradual": 0.5}),
    ("life_regression", {"noise": 0.5, "gradual": 0.5}),
]
"""What draws, or counts, by the step."""


@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        pytest.param("merge", {}, marks=CI_ONLY),
        pytest.param("vit_slim", {}, marks=pytest.mark.slow),
        *(pytest.param(*option, marks=pytest.mark.slow) for option in OPTIONS),
    ],
)
def test_a_trial_that_leaves_its_node_again_and_again_gives_the_undisturbed_model(
    method: str, knobs: Knobs, context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    # Mixup, an average and augmentation: whatever draws in a step.
    recipe = make_recipe(method, knobs=knobs, epochs=2.0, mixup=0.2, ema_decay=0.9, repeats=3 if knobs else 1)
    undisturbed, outcome = drain(run_trial(recipe, context, tmp_path / "undisturbed"))
    found = list(try_until_it_ends(recipe, context, tmp_path / "often", every=4))
    assert found[-1][0] >= 2
    # A try that begins between two epochs makes the report of its checkpoint again, as after a crash.
    reports = [report for place, (_, report) in enumerate(found) if not place or facts(report) != facts(found[place - 1][1])]
    assert [facts(report) for report in reports] == [facts(report) for report in undisturbed]
    own, expected = weights(tmp_path / "often"), weights(tmp_path / "undisturbed")
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)
    assert outcome.epochs == pytest.approx(2.0)


def test_a_long_epoch_has_checkpoints_in_it(
    context: TrialContext, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """So that a node that is lost without notice takes minutes of work with it, and not an epoch."""
    recipe = make_recipe("merge", epochs=2.0)
    run = run_trial(recipe, context, tmp_path)
    while next(run).phase is not Phase.FINETUNE:
        pass
    saved = []
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(
        "autoslim.training.trial.save_checkpoint", lambda folder, tensors, metadata, **_: saved.append((metadata, tensors))
    )
    next(run)
    steps = [metadata["step"] for metadata, _ in saved]
    assert steps == list(range(steps[0], steps[0] + len(steps)))
    assert len(steps) >= 5
    unfinished = [any(name.startswith("segment.") for name in tensors) for _, tensors in saved]
    assert unfinished == [True] * (len(steps) - 1) + [False]
    assert [bool(metadata["metrics"]) for metadata, _ in saved] == [not one for one in unfinished]


def test_nothing_is_saved_that_cannot_be_trained_from(context: TrialContext, make_recipe: MakeRecipe, tmp_path: Path):
    recipe = make_recipe("merge", epochs=2.0, lr=1e30)
    run = run_trial(recipe, dataclasses.replace(context, preempted=Notice(5)), tmp_path)
    with pytest.raises(DivergedError):
        list(run)
    assert load_checkpoint(tmp_path / "checkpoint") is None
