"""A search never passes its hours and its money: on a clock of the test's own, over several attempts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.sample_search import make_job, make_result
from helpers.simulated_trials import BASE, make_coordinator, run_all, run_one

from autoslim.core.budget import Budget
from autoslim.core.duration import format_duration
from autoslim.core.job import Resources, SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import SharedCost, TrialState
from autoslim.core.urls import default_url
from autoslim.errors import JobError, RequestError
from autoslim.search.spending import spending_limit
from autoslim.store import Store
from workers.progress.callbacks import SearchInfo
from workers.progress.cost import finalize_seconds
from workers.search.coordinator import Coordinator
from workers.search.spending_guard import STOP_SECONDS, SpendingGuard
from workers.search.trial_index import CUT_SHORT

A_TRIAL = 8.0
"""Seconds, as the simulated trials report them; a trial of these takes six steps."""


def limited_job(root: Path, seconds: float, **changes: Any) -> SearchJob:
    """With so many seconds for trials."""
    settings = {"budgets": (Budget.parse("80%"),), "trials": 40, "training": TrainingSettings(epochs=4.0), "sampler": "random"}
    job = make_job(str(root), **{**settings, "speed": (), "scheduler": "none", "final_share": 0.0, **changes})
    return job.replace(max_hours=(seconds + reserve_of(job)) / 3600)


def reserve_of(job: SearchJob) -> float:
    return STOP_SECONDS + 1.25 * finalize_seconds(job)


class Attempt:
    """One attempt at a search, whose clock goes on by a step of a trial."""

    def __init__(self, job: SearchJob, store: Store, root: Path) -> None:
        self.now, self.store = 0.0, store
        if not store.has_job(job.id):
            store.create_job(job)
        self.guard = SpendingGuard(job, store, began=0.0, clock=lambda: self.now)
        self.coordinator: Coordinator = make_coordinator(job, store, root, [self.guard], spending=self.guard)
        self.guard.on_search_start(SearchInfo(job=job, budgets={}, base=BASE, results=store.trials(job.id)))

    def step(self) -> None:
        self.now += A_TRIAL / 6

    def run(self) -> None:
        run_all(self.coordinator, self.step)


@pytest.fixture
def store(tmp_path):
    with Store(default_url(str(tmp_path))) as opened:
        yield opened


def test_no_trial_begins_that_would_end_too_late_and_what_is_kept_is_kept(tmp_path, store):
    job = limited_job(tmp_path, 60.0)
    attempt = Attempt(job, store, tmp_path)
    attempt.run()
    assert attempt.coordinator.finished
    assert 60 - A_TRIAL < attempt.guard.seconds() <= 60
    complete = [result for result in store.trials(job.id) if result.state is TrialState.COMPLETE]
    assert len(complete) == len(store.trials(job.id)) == 7
    reason = attempt.guard.refusal(4.0)
    assert reason is not None
    assert f"of {format_duration(3600 * job.max_hours)} spent, another trial takes about 8s, and " in reason
    assert "are kept for handing the models over" in reason


def test_without_a_limit_nothing_is_refused_and_the_time_is_stored_all_the_same(tmp_path, store):
    job = limited_job(tmp_path, 60.0, trials=9).replace(max_hours=None)
    attempt = Attempt(job, store, tmp_path)
    attempt.run()
    assert len(store.trials(job.id)) == 9
    assert not attempt.guard.is_up()
    assert store.job(job.id).seconds == pytest.approx(attempt.now)


def test_a_later_attempt_counts_the_time_of_the_earlier_ones(tmp_path, store):
    job = limited_job(tmp_path, 60.0)
    first = Attempt(job, store, tmp_path)
    for _ in range(4):
        run_one(first.coordinator, first.coordinator.next_trial(), first.step)
    spent = store.job(job.id).seconds
    assert spent == pytest.approx(first.now)
    second = Attempt(job, store, tmp_path)
    assert second.guard.seconds() == pytest.approx(spent)
    second.run()
    assert spent + second.now <= 60
    assert second.guard.seconds() > 60 - A_TRIAL
    third = Attempt(job, store, tmp_path)
    third.run()
    assert third.now == 0.0, "nothing is left"


def test_trials_that_run_when_the_limit_comes_are_stopped_and_go_on_with_a_higher_one(tmp_path, store):
    job = limited_job(tmp_path, 60.0)
    attempt = Attempt(job, store, tmp_path)
    running = [attempt.coordinator.next_trial(), attempt.coordinator.next_trial()]
    attempt.now = 59.0
    assert not attempt.guard.is_up()
    attempt.now = 61.0
    assert attempt.guard.is_up()
    assert attempt.coordinator.end_running() == 2
    for assignment, result in zip(running, store.trials(job.id), strict=True):
        assert (result.number, result.state, result.stopped) == (assignment.number, TrialState.STOPPED, CUT_SHORT)
        assert (result.epochs, result.accuracy) == (0.0, None)

    same = Attempt(job, store, tmp_path)
    same.run()
    assert same.now == 0.0
    assert {result.stopped for result in store.trials(job.id)} == {CUT_SHORT}

    more = Attempt(job.replace(max_hours=job.max_hours + 40 / 3600), store, tmp_path)
    more.run()
    results = store.trials(job.id)
    assert [result.state for result in results[:2]] == [TrialState.COMPLETE] * 2
    assert [result.stopped for result in results[:2]] == [None, None]
    assert more.guard.seconds() <= 100


def test_money_is_that_of_all_devices_together(tmp_path, store):
    changes = {"resources": Resources(cpu=2.0), "price_per_hour": 3600.0}
    job = limited_job(tmp_path, 0.0, **changes).replace(max_hours=None)
    # A second of a device costs 1: 2 devices, five trials, and what is kept.
    job = job.replace(max_cost=2 * (5.5 * A_TRIAL + reserve_of(job)))
    assert spending_limit(job).device_seconds == pytest.approx(job.max_cost)
    assert spending_limit(job).seconds is None
    attempt = Attempt(job, store, tmp_path)
    side_by_side = [attempt.coordinator.next_trial() for _ in range(2)]
    for assignment in side_by_side:
        run_one(attempt.coordinator, assignment, attempt.step)
    attempt.run()
    assert attempt.guard.device_seconds() <= 2 * 5.5 * A_TRIAL + 2 * A_TRIAL
    assert f"of {job.max_cost:g} in money spent" in attempt.guard.describe()
    assert "another trial costs about 16.00" in (attempt.guard.refusal(4.0) or "")


def test_trials_side_by_side_are_counted_with_what_they_have_still_to_take(tmp_path, store):
    job = limited_job(tmp_path, 0.0, price_per_hour=3600.0).replace(max_hours=None)
    job = job.replace(max_cost=3.5 * A_TRIAL + reserve_of(job))
    attempt = Attempt(job, store, tmp_path)
    run_one(attempt.coordinator, attempt.coordinator.next_trial(), attempt.step)
    assert attempt.coordinator.next_trial() is not None
    assert attempt.coordinator.next_trial() is not None
    assert attempt.coordinator.next_trial() is None, "two that run have taken what was left"


def test_the_search_leaves_its_share_to_the_refinement(tmp_path, store):
    job = limited_job(tmp_path, 82.0, final_share=0.5)
    attempt = Attempt(job, store, tmp_path)
    attempt.run()
    results = store.trials(job.id)
    assert sum(result.recipe.training.epochs == 4.0 for result in results) == 5
    assert any(result.recipe.training.epochs > 4.0 for result in results)
    assert attempt.guard.seconds() <= 82


def test_before_the_first_trial_has_ended_the_dense_model_says_how_long_one_takes(tmp_path, store):
    job = limited_job(tmp_path, 60.0)
    store.create_job(job)
    store.add_shared_costs(job.id, [SharedCost(key="b", method="dense model", settings={}, epochs=3.0, seconds=36.0)])
    attempt = Attempt(job, store, tmp_path)
    # 12 seconds an epoch, and a third more with a teacher: four epochs take 64 seconds.
    assert "another trial takes about 1m04s" in (attempt.guard.refusal(4.0) or "")
    assert attempt.guard.refusal(3.0) is None


def test_a_limit_that_handing_over_alone_passes_is_refused(tmp_path, store):
    job = limited_job(tmp_path, -10.0)
    with pytest.raises(
        RequestError, match=r"^--max-hours 0\.0\d+ \(\d+s\) is too little: handing the models over alone takes about "
    ):
        Attempt(job, store, tmp_path)


def test_the_dense_models_training_ends_with_the_limit(tmp_path, store):
    job = limited_job(tmp_path, 60.0)
    attempt = Attempt(job, store, tmp_path)
    attempt.now = 50.0
    attempt.guard.check()
    attempt.now = 61.0
    with pytest.raises(
        JobError, match=r"^--max-hours .*: the limit comes while the dense model is adapted.*--resume with a higher limit"
    ):
        attempt.guard.check()


def test_what_is_spent_is_told(tmp_path, store):
    job = limited_job(tmp_path, 3600.0).replace(max_hours=2.0, max_cost=20.0, price_per_hour=1.0)
    attempt = Attempt(job, store, tmp_path)
    attempt.now = 1800.0
    attempt.guard.on_trial_end(make_result(0, seconds=10.0), "80%")
    assert attempt.guard.describe() == "30m00s of 2h00m and 0.00 of 20 in money spent"
    assert attempt.guard.unspent() == "1h30m, 20.00 in money unspent"
    assert attempt.guard.seconds_left() == pytest.approx(5400 - attempt.guard.reserve())
