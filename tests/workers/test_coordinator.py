"""The search's book-keeping without a cluster: every trial ends once, as what it was, however often its processes are killed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from sample_search import make_job
from simulated_trials import Killed, make_coordinator, run_all

from autoslim.budget import Budget
from autoslim.job import SearchJob
from autoslim.recipe import Training
from autoslim.result import ParetoFront, TrialResult, TrialState
from autoslim.store import Store, default_url


def small_job(root: Path, **changes: Any) -> SearchJob:
    budgets = (Budget.parse("80%"), Budget.parse("60%"))
    return make_job(str(root), budgets=budgets, trials=18, training=Training(epochs=4.0), **changes)


def run_undisturbed(root: Path, **changes: Any) -> list[TrialResult]:
    root.mkdir()
    job = small_job(root, **changes)
    with Store(default_url(str(root))) as store:
        run_all(make_coordinator(job, store, root))
        return store.trials(job.id)


def test_a_stopped_trial_has_its_fidelity_and_is_told_why(tmp_path):
    results = run_undisturbed(tmp_path / "run")
    stopped = [result for result in results if result.state is TrialState.STOPPED]
    complete = [result for result in results if result.state is TrialState.COMPLETE]
    assert len(stopped) >= 3
    assert len(complete) >= 6
    for result in stopped:
        assert result.stopped is not None
        assert result.epochs is not None
        assert result.epochs < 4
        assert result.accuracy is not None
        assert result.accuracy_after_cut is not None
        assert 0 < (result.flops or 0) <= result.recipe.budget
        assert result.seconds is not None
        assert result.error is None
        assert result.origin != "random"
    assert not {result.number for result in ParetoFront.of(results).results} & {result.number for result in stopped}


def test_without_a_scheduler_every_trial_runs_to_its_end(tmp_path):
    results = run_undisturbed(tmp_path / "run", scheduler="none")
    assert {result.state for result in results} <= {TrialState.COMPLETE, TrialState.INFEASIBLE}


@pytest.mark.parametrize("scheduler", ["halving", "median"])
def test_killed_at_random_moments_a_resumed_search_decides_as_the_undisturbed_one(tmp_path, scheduler):
    expected = run_undisturbed(tmp_path / "undisturbed", scheduler=scheduler)
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
