"""A trial on two ranks, which are processes: its losses are those of one process, whatever becomes of the ranks."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from helpers.marks import CI_ONLY

from autoslim.core.recipe import Knobs, Recipe
from autoslim.core.result import EpochReport, Phase
from autoslim.data import PreparedDataset
from autoslim.errors import DivergedError, PreemptedError, RankLostError
from autoslim.methods import METHODS
from autoslim.training import TrialContext, checkpoint, loop, rank_watch, ranks, run_trial
from autoslim.training.ranks import LeadingRank

MakeRecipe = Callable[..., Recipe]
SETTINGS = {"epochs": 1.0, "mixup": 0.2, "lr": 1e-4}


@pytest.fixture(scope="module")
def leading(base: Path, digits: PreparedDataset) -> Iterator[LeadingRank]:
    """One for all tests: starting a rank takes seconds."""
    group = LeadingRank(2, base=base, dataset=digits.path, teacher=None)
    yield group
    group.close()


@pytest.fixture
def on_two_ranks(context: TrialContext, leading: LeadingRank) -> TrialContext:
    return dataclasses.replace(context, group=leading)


def losses(reports: list[EpochReport]) -> list[tuple[Phase, dict[str, float]]]:
    """All curves but what depends on the clock, and accuracies: an image between two classes may fall on either side."""
    clock = ("images_per_second", "loader_wait", "accuracy")
    return [(r.phase, {name: value for name, value in r.metrics.items() if name not in clock}) for r in reports]


def assert_same_losses(reports: list[EpochReport], expected: list[EpochReport]) -> None:
    for (phase, own), (expected_phase, alone) in zip(losses(reports), losses(expected), strict=True):
        assert phase == expected_phase
        assert own == pytest.approx(alone, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=CI_ONLY if name == "width" else pytest.mark.slow) for name in METHODS]
)
def test_two_ranks_give_the_losses_of_one_process(
    method: str, context: TrialContext, on_two_ranks: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    recipe = make_recipe(method, **SETTINGS)
    alone, _ = drain(run_trial(recipe, context, tmp_path / "one"))
    together, outcome = drain(run_trial(recipe, on_two_ranks, tmp_path / "two"))
    assert_same_losses(together, alone)
    assert outcome.flops <= recipe.budget


@pytest.mark.slow
@pytest.mark.parametrize("chain", [("width", "merge"), ("vit_slim", "dps")])
def test_two_ranks_give_a_chains_losses_of_one_process(
    chain: tuple[str, str], context: TrialContext, on_two_ranks: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    """The second one has a rest between its steps, and trains parts in the second."""
    recipe = make_recipe(*chain, **{**SETTINGS, "epochs": 2.0})
    alone, _ = drain(run_trial(recipe, context, tmp_path / "one"))
    together, outcome = drain(run_trial(recipe, on_two_ranks, tmp_path / "two"))
    assert_same_losses(together, alone)
    assert outcome.flops <= recipe.budget


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        ("merge", {"embedding": "learned", "criteria": "several", "consistency": 1.0}),
        ("dps", {"counts": "pyramid", "learn_from": "task", "noise": 0.5, "gradual": 0.5}),
        ("life_regression", {"noise": 0.5, "gradual": 0.5}),
    ],
)
def test_what_draws_or_counts_by_the_step_does_so_for_the_whole_batch(
    method: str, knobs: Knobs, context: TrialContext, on_two_ranks: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    recipe = make_recipe(method, knobs=knobs, **SETTINGS, repeats=3)
    alone, _ = drain(run_trial(recipe, context, tmp_path / "one"))
    together, _ = drain(run_trial(recipe, on_two_ranks, tmp_path / "two"))
    assert_same_losses(together, alone)


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_a_trial_resumes_with_another_number_of_ranks(
    first: int, context: TrialContext, on_two_ranks: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    recipe = make_recipe("vit_slim", **{**SETTINGS, "epochs": 3.0})
    alone, _ = drain(run_trial(recipe, context, tmp_path / "one"))
    contexts = [context, on_two_ranks] if first == 1 else [on_two_ranks, context]
    run = run_trial(recipe, contexts[0], tmp_path / "both")
    begun = [next(run)]
    while begun[-1].phase is not Phase.FINETUNE:
        begun.append(next(run))
    run.close()
    rest, _ = drain(run_trial(recipe, contexts[1], tmp_path / "both"))
    # The first report of a resumed trial is the last one before.
    assert_same_losses([*begun, *rest[1:]], alone)


@pytest.mark.slow
def test_a_trial_that_leaves_its_node_in_an_epoch_ends_its_ranks_and_goes_on_with_as_many(
    context: TrialContext, on_two_ranks: TrialContext, leading: LeadingRank, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    recipe = make_recipe("merge", **{**SETTINGS, "epochs": 2.0})
    alone, _ = drain(run_trial(recipe, context, tmp_path / "one"))
    asked = iter(range(100))
    leaving = dataclasses.replace(on_two_ranks, preempted=lambda: next(asked) >= 8)
    begun: list[EpochReport] = []
    with pytest.raises(PreemptedError):
        begun.extend(run_trial(recipe, leaving, tmp_path / "two"))
    assert leading._others == []
    rest, _ = drain(run_trial(recipe, on_two_ranks, tmp_path / "two"))
    assert_same_losses([*begun, *rest], alone)


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_the_try_and_the_next_one_resumes(
    ended_by: signal.Signals,
    on_two_ranks: TrialContext,
    leading: LeadingRank,
    make_recipe: MakeRecipe,
    drain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    leading.close()
    monkeypatch.setattr(ranks, "_ANSWER_SECONDS", 5.0)
    monkeypatch.setattr(ranks, "_END_SECONDS", 1.0)
    recipe = make_recipe("merge", **{**SETTINGS, "epochs": 3.0})
    run = run_trial(recipe, on_two_ranks, tmp_path)
    while next(run).phase is not Phase.FINETUNE:
        pass
    ((process, _),) = leading._others
    os.kill(process.pid, ended_by)
    began = time.monotonic()
    said = "rank 1 of 2 was ended by SIGKILL; the trial is tried again" if ended_by is signal.SIGKILL else "has no answer"
    with pytest.raises(RankLostError, match=said):
        next(run)
    assert time.monotonic() - began < 60
    assert process.poll() is not None
    assert not dist.is_initialized()
    _, outcome = drain(run_trial(recipe, on_two_ranks, tmp_path))
    assert outcome.epochs == pytest.approx(3.0)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_a_rank_is_lost_while_rank_0_waits_for_something_else_than_a_collective(
    context: TrialContext,
    leading: LeadingRank,
    base: Path,
    digits: PreparedDataset,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """As in NCCL's, which say nothing of a rank that has ended."""
    # A process is in one group at a time.
    leading.close()
    monkeypatch.setattr(rank_watch, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(rank_watch, "_NOTICE_SECONDS", 0.5)
    told: list[str] = []
    ended = threading.Event()

    def end(reason: str) -> None:
        # It would end this process.
        told.append(reason)
        ended.set()

    watching = LeadingRank(2, base=base, dataset=digits.path, teacher=None, end=end)

    def hang() -> bool:
        ((process, _),) = watching._others
        os.kill(process.pid, signal.SIGKILL)
        assert ended.wait(60)
        return False

    try:
        with pytest.raises(RankLostError, match=r"rank 1 of 2 was ended by SIGKILL"):
            list(
                run_trial(
                    make_recipe("merge", **SETTINGS), dataclasses.replace(context, group=watching, preempted=hang), tmp_path
                )
            )
    finally:
        watching.close()
    assert told[0] == "rank 1 of 2 was ended by SIGKILL, and rank 0 waits for it"


@pytest.mark.slow
@pytest.mark.short
def test_the_ranks_wait_for_a_checkpoint_that_takes_longer_than_a_step_may(
    context: TrialContext,
    on_two_ranks: TrialContext,
    leading: LeadingRank,
    make_recipe: MakeRecipe,
    drain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    recipe = make_recipe("merge", **SETTINGS)
    alone, _ = drain(run_trial(recipe, context, tmp_path / "one"))
    leading.close()
    monkeypatch.setattr(ranks, "_ANSWER_SECONDS", 5.0)
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    slow = []

    def save(folder: Path, tensors, metadata, **named) -> None:
        if not metadata["metrics"] and not slow:
            slow.append(metadata["step"])
            time.sleep(8.0)
        checkpoint.save_checkpoint(folder, tensors, metadata, **named)

    monkeypatch.setattr("autoslim.training.trial.save_checkpoint", save)
    together, _ = drain(run_trial(recipe, on_two_ranks, tmp_path / "two"))
    leading.close()
    assert len(slow) == 1
    assert_same_losses(together, alone)


@pytest.mark.slow
def test_a_trials_own_error_is_that_of_one_process(on_two_ranks: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path):
    recipe = make_recipe("merge", **{**SETTINGS, "lr": 1e30})
    with pytest.raises(DivergedError):
        drain(run_trial(recipe, on_two_ranks, tmp_path))


@pytest.mark.slow
def test_a_trial_whose_node_ends_all_processes_keeps_a_checkpoint(
    on_two_ranks: TrialContext, leading: LeadingRank, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    """As Slurm does, with SIGTERM. What rank 0 does with it is of its process, and is here what `preempted` says."""
    ended: list[int] = []
    run = run_trial(
        make_recipe("merge", **{**SETTINGS, "epochs": 3.0}),
        dataclasses.replace(on_two_ranks, preempted=lambda: bool(ended)),
        tmp_path,
    )
    while next(run).phase is not Phase.FINETUNE:
        pass
    ((process, _),) = leading._others
    os.kill(process.pid, signal.SIGTERM)
    ended.append(process.pid)
    with pytest.raises(PreemptedError):
        drain(run)
    assert process.poll() is not None


@pytest.mark.slow
def test_a_rank_ends_when_rank_0_is_killed(on_two_ranks: TrialContext, leading: LeadingRank, make_recipe, tmp_path: Path):
    run = run_trial(make_recipe("merge", **SETTINGS), on_two_ranks, tmp_path)
    while next(run).phase is not Phase.FINETUNE:
        pass
    ((process, _),) = leading._others
    # What the kernel does when rank 0 ends, however it ends.
    process.stdin.close()
    assert process.wait(timeout=30) == 1
    process.stdin = None
    leading.close()
