"""How long is left: early stops, every limit, and the end are in it."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.sample_search import make_job, make_result

from autoslim.core.budget import Budget
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Origin, TrialState
from workers.progress.cost import finalize_seconds
from workers.progress.eta import EtaEstimator


class Run:
    """A search of one slot whose trials take the seconds they are given."""

    def __init__(self, **job: Any) -> None:
        self.time = 100.0
        spec = make_job(budgets=(Budget.parse("50%"),), training=TrainingSettings(epochs=3.0), **{"final_share": 0.0, **job})
        self.eta = EtaEstimator(spec, slots=1, now=lambda: self.time)
        self.ended = 0

    def start(self) -> None:
        self.eta.on_trial_start(make_result(self.ended, TrialState.RUNNING), "50%")

    def trial(self, seconds: float, **changes: Any) -> float | None:
        self.time += seconds
        self.eta.on_trial_end(make_result(self.ended, seconds=seconds, **{"epochs": 3.0, **changes}), "50%")
        self.ended += 1
        return self.eta.seconds_left()


def test_nothing_is_known_before_a_trial_has_ended():
    assert Run().eta.seconds_left() is None
    assert Run().eta.seconds_to_end() is None


def test_the_time_to_the_end_counts_the_models_that_are_delivered():
    run = Run(trials=2, speed=("eager",))
    assert run.trial(30) == pytest.approx(30)
    assert run.eta.seconds_to_end() == pytest.approx(
        30 + finalize_seconds(make_job(budgets=(Budget.parse("50%"),), speed=("eager",)))
    )


def test_the_time_to_the_end_follows_the_nodes_of_the_cluster():
    run = Run(trials=7)
    assert run.trial(30) == pytest.approx(6 * 30)
    run.eta.on_slots_change(3)
    assert run.eta.seconds_left() == pytest.approx(2 * 30)


def test_trials_of_earlier_attempts_count_and_reused_ones_do_not():
    earlier = [make_result(n, seconds=30.0) for n in range(4)] + [make_result(4, origin=Origin.REUSED, seconds=0.0)]
    eta = EtaEstimator(make_job(trials=10, final_share=0.0), slots=1, results=earlier, now=lambda: 0.0)
    eta.on_trial_end(make_result(5, seconds=30.0), "50%")
    assert eta.seconds_left() == pytest.approx(5 * 30)


def test_the_pace_is_that_of_the_last_trials_early_stops_included():
    run = Run(trials=40)
    assert run.trial(30) == pytest.approx(39 * 30)
    for _ in range(15):
        run.trial(30)
    for _ in range(16):
        left = run.trial(10, state=TrialState.STOPPED, epochs=1.0)
    assert left == pytest.approx(8 * 10)


def test_the_tightest_limit_counts():
    run = Run(trials=100, max_seconds=300.0)
    assert run.trial(30) == pytest.approx(270)
    run = Run(trials=100, max_epochs=12.0)
    assert run.trial(30) == pytest.approx(3 * 30)


def test_trials_that_still_run_are_counted_where_nothing_is_tuned_longer():
    run = Run(trials=2, final_share=0.5)
    run.trial(30)
    run.eta.on_search_end("enough trials", 0)
    assert run.eta.seconds_left() == pytest.approx(30)
    assert run.trial(30) == 0


def test_the_end_is_counted_before_it_begins_and_while_it_runs():
    run = Run(trials=10, final_share=0.5)
    assert run.trial(30) == pytest.approx(9 * 30 + 300)
    for _ in range(9):
        left = run.trial(30)
    assert left == pytest.approx(300)
    run.eta.on_search_end("enough trials", 1)
    assert run.eta.seconds_left() == pytest.approx(300)
    run.time += 100
    assert run.eta.seconds_left() == pytest.approx(200)
    assert run.trial(200, origin=Origin.REFINEMENT, epochs=30.0) == 0.0


def test_neither_the_dense_model_nor_workers_that_start_are_taken_for_the_pace_of_trials():
    run = Run(trials=11, max_seconds=1000.0)
    run.time += 500.0  # the dense model is adapted
    run.start()
    run.time += 12.0
    assert run.trial(30) == pytest.approx(10 * 30)
    run.start()
    run.time += 850.0
    assert run.trial(30) == pytest.approx(1000.0 - 12 - 850 - 60)
