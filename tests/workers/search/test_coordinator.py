"""The coordinator without a cluster: every trial ends exactly once, in one state, however often its processes are killed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.sample_search import make_job
from helpers.simulated_trials import Killed, make_coordinator, reports, run_all, run_one

from autoslim.core.budget import Budget
from autoslim.core.job import SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Origin, ParetoFront, TrialResult, TrialState
from autoslim.core.urls import default_url
from autoslim.store import Store
from workers.progress.callbacks import SearchCallback


class EndCallback(SearchCallback):
    """Collects how many final trials each end of the search announces."""

    def __init__(self) -> None:
        self.finals: list[int] = []

    def on_search_end(self, reason: str, refinements: int) -> None:
        self.finals.append(refinements)


def small_job(root: Path, **changes: Any) -> SearchJob:
    budgets = (Budget.parse("80%"), Budget.parse("60%"))
    return make_job(str(root), budgets=budgets, trials=18, training=TrainingSettings(epochs=4.0), **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[TrialResult]]:
    """The trials of a search with this pruner that nothing interrupts; each is run once for all tests."""

    @functools.cache
    def run(scheduler: str) -> list[TrialResult]:
        root = tmp_path_factory.mktemp(scheduler)
        job = small_job(root, scheduler=scheduler)
        with Store(default_url(str(root))) as store:
            run_all(make_coordinator(job, store, root))
            return store.trials(job.id)

    return run


@pytest.mark.slow
@pytest.mark.short
def test_a_stopped_trial_has_its_epochs_its_accuracy_and_the_reason(undisturbed):
    results = undisturbed("halving")
    stopped = [result for result in results if result.state is TrialState.STOPPED]
    complete = [result for result in results if result.state is TrialState.COMPLETE]
    assert len(stopped) >= 3
    assert len(complete) >= 6
    for result in stopped:
        assert result.stopped is not None
        assert result.epochs is not None
        assert result.epochs < 4
        assert result.accuracy is not None
        assert result.accuracy_after_pruning is not None
        assert 0 < (result.flops or 0) <= result.recipe.budget
        assert result.seconds is not None
        assert result.error is None
        assert result.origin != Origin.CONTROL
    assert not {result.number for result in ParetoFront.of(results).results} & {result.number for result in stopped}


@pytest.mark.slow
@pytest.mark.short
def test_without_a_pruner_every_trial_runs_to_its_end(undisturbed):
    results = undisturbed("none")
    assert {result.state for result in results} <= {TrialState.COMPLETE, TrialState.INFEASIBLE}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["halving", "median"])
def test_killed_at_random_moments_a_resumed_search_decides_as_the_undisturbed_one(tmp_path, undisturbed, scheduler):
    expected = undisturbed(scheduler)
    root = tmp_path / "killed"
    root.mkdir()
    job, chance, attempts = small_job(root, scheduler=scheduler), random.Random(1), 0
    while True:
        attempts += 1
        lives = chance.randrange(2, 25)

        def step() -> None:
            nonlocal lives
            lives -= 1
            if lives < 0:
                raise Killed

        with Store(default_url(str(root))) as store:
            try:
                run_all(make_coordinator(job, store, root), step)
            except Killed:
                continue
            assert store.trials(job.id) == expected
            assert attempts > 3
            return


def test_the_best_of_each_budget_is_refined_when_all_other_trials_have_ended(undisturbed):
    results = undisturbed("halving")
    finals = [result for result in results if result.origin == Origin.REFINEMENT]
    assert len(results) == 18 + len(finals)
    assert [result.number for result in finals] == [18, 19]
    best = {
        flops: max(r.accuracy or 0 for r in results[:18] if r.recipe.budget == flops)
        for flops in {r.recipe.budget for r in finals}
    }
    assert len(best) == 2
    for final in finals:
        assert final.state is TrialState.COMPLETE
        assert final.recipe.training.epochs >= 6
        assert any(r.recipe.steps == final.recipe.steps and r.accuracy == best[r.recipe.budget] for r in results[:18])
    spent = sum(result.epochs or 0 for result in results[:18])
    assert sum(result.epochs or 0 for result in finals) <= spent / 3 + 1


def test_the_refinement_waits_for_running_trials(tmp_path):
    job = small_job(tmp_path).replace(trials=3, final_share=0.5)
    with Store(default_url(str(tmp_path))) as store:
        callback = EndCallback()
        coordinator = make_coordinator(job, store, tmp_path, [callback])
        running = [coordinator.next_trial() for _ in range(3)]
        assert all(running)
        assert coordinator.next_trial() is None
        assert not coordinator.finished
        assert callback.finals == [], "the best are not known while a trial runs"
        for assignment in running:
            run_one(coordinator, assignment)
        run_all(coordinator)
        assert coordinator.finished
        assert callback.finals == [sum(result.origin == Origin.REFINEMENT for result in store.trials(job.id))]
        assert callback.finals[0] > 0


@pytest.mark.slow
@pytest.mark.short
def test_a_search_given_more_trials_continues_as_if_it_had_had_them_at_once(tmp_path, undisturbed):
    few, expected = tmp_path, undisturbed("halving")
    job = small_job(few).replace(trials=12, final_share=0.5)
    with Store(default_url(str(few))) as store:
        run_all(make_coordinator(job, store, few))
        run_all(make_coordinator(job.replace(trials=18), store, few))
        results = store.trials(job.id)
    assert [r.number for r in results] == list(range(len(results)))
    searched = [r for r in results if r.origin != Origin.REFINEMENT]
    assert [(r.recipe, r.state, r.accuracy) for r in searched] == [(r.recipe, r.state, r.accuracy) for r in expected[:18]]


def test_a_trial_lost_to_the_cluster_is_run_again_and_one_that_failed_is_not(tmp_path):
    job = small_job(tmp_path).replace(trials=4, final_share=0.0)
    with Store(default_url(str(tmp_path))) as store:
        coordinator = make_coordinator(job, store, tmp_path)
        lost, bad = coordinator.next_trial(), coordinator.next_trial()
        assert lost is not None
        assert bad is not None
        coordinator.fail(lost.number, "WorkerLostError", "the node is gone")
        coordinator.fail(bad.number, "DivergedError", "the loss is nan")
        run_all(coordinator)
        run_all(make_coordinator(job, store, tmp_path))
        states = [result.state for result in store.trials(job.id)]
    assert states[lost.number] is TrialState.COMPLETE
    assert states[bad.number] is TrialState.FAILED
    assert len(states) == 4


class LossCallback(SearchCallback):
    """Collects why trials were lost, by number."""

    def __init__(self) -> None:
        self.lost: list[tuple[int, str]] = []
        self.starts: list[int] = []

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        self.starts.append(result.number)

    def on_trial_lost(self, result: TrialResult, reason: str) -> None:
        self.lost.append((result.number, reason))


def test_a_trial_that_leaves_its_node_is_the_next_one_however_often_and_fails_never(tmp_path):
    job = small_job(tmp_path).replace(trials=2, final_share=0.0)
    with Store(default_url(str(tmp_path))) as store:
        callback = LossCallback()
        coordinator = make_coordinator(job, store, tmp_path, [callback])
        first, second = coordinator.next_trial(), coordinator.next_trial()
        assert coordinator.next_trial() is None
        for _ in range(30):
            coordinator.lost(first.number, "it had to leave its node", "PreemptedError", retries=None)
            assert coordinator.next_trial() == first
        assert coordinator.next_trial() is None
        for assignment in (first, second):
            run_one(coordinator, assignment)
        states = [result.state for result in store.trials(job.id)]
    assert states == [TrialState.COMPLETE] * 2
    assert callback.starts == [first.number, second.number]
    assert callback.lost == [(first.number, "it had to leave its node")] * 30


def test_losses_count_in_a_row_and_a_repeated_report_is_no_progress(tmp_path):
    job = small_job(tmp_path).replace(trials=1, final_share=0.0, scheduler="none")
    with Store(default_url(str(tmp_path))) as store:
        coordinator = make_coordinator(job, store, tmp_path)
        trial = coordinator.next_trial()
        made = list(reports(trial.recipe))
        for report in made[:3]:
            # As often as is allowed, and then it gets further.
            for _ in range(2):
                coordinator.lost(trial.number, "its worker was lost", "gone", retries=2)
                assert coordinator.next_trial() == trial
            assert coordinator.report(trial.number, report)
        for _ in range(2):
            coordinator.lost(trial.number, "its worker was lost", "gone", retries=2)
            assert coordinator.next_trial() == trial
            # The report of the checkpoint, again.
            assert coordinator.report(trial.number, made[2])
        coordinator.lost(trial.number, "its worker was lost", "gone for good", retries=2)
        assert coordinator.next_trial() is None
        (result,) = store.trials(job.id)
    assert (result.state, result.error_class, result.error) == (TrialState.FAILED, "WorkerLostError", "gone for good")


def test_more_would_begin_until_the_last_trial_has(tmp_path):
    job = small_job(tmp_path).replace(trials=3, final_share=0.0)
    with Store(default_url(str(tmp_path))) as store:
        coordinator = make_coordinator(job, store, tmp_path)
        wanted = []
        while coordinator.next_trial() is not None:
            wanted.append(coordinator.wants_more())
    assert wanted[0]
    assert not wanted[-1]


@pytest.mark.slow
@pytest.mark.short
def test_models_that_can_no_longer_be_selected_are_deleted_during_the_search(tmp_path):
    job = small_job(tmp_path)
    with Store(default_url(str(tmp_path))) as store:
        coordinator = make_coordinator(job, store, tmp_path)
        while (assignment := coordinator.next_trial()) is not None:
            (tmp_path / "trials" / assignment.recipe.key / "model").mkdir(parents=True)
            run_one(coordinator, assignment)
        results = store.trials(job.id)
        kept = {path.name for path in (tmp_path / "trials").iterdir()}
    front = {result.recipe.key for result in ParetoFront.of(results).results}
    assert front <= kept
    complete = {result.recipe.key for result in results if result.state is TrialState.COMPLETE}
    assert len(kept & complete) < len(complete)
