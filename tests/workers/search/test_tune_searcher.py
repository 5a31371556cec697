"""What Ray Tune tells of trials without a cluster: those that find no place, and those whose worker was ended for memory."""

from __future__ import annotations

import traceback
from types import SimpleNamespace

import pytest
from helpers.sample_search import make_job
from helpers.simulated_trials import make_coordinator
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError

from autoslim.core.budget import Budget
from autoslim.core.job import Resources
from autoslim.core.result import ErrorClass, TrialState
from autoslim.core.urls import default_url
from autoslim.store import Store
from workers.search.trial_index import TrialIndex
from workers.search.tune_searcher import _STANDSTILL_SECONDS, CoordinatorSearcher, LostWorkerCallback, StandstillCallback


@pytest.fixture
def search():
    """`now` is the time, `told` what the search has said; `step` is a round of Tune with trials in these states."""
    search = SimpleNamespace(now=0.0, told=[])
    searcher = SimpleNamespace(waits=search.told.append)
    callback = StandstillCallback(searcher, Resources(cpu=2, gpu=0.5), clock=lambda: search.now)

    def step(*states, after=0.0):
        search.now += after
        callback.on_step_end(1, [SimpleNamespace(status=state) for state in states])

    search.step = step
    return search


def test_trials_that_wait_too_long_are_told_once_and_so_is_their_end(search):
    search.step("TERMINATED", "PENDING")
    search.step("TERMINATED", "PENDING", after=_STANDSTILL_SECONDS - 1)
    assert search.told == []
    for _ in range(3):
        search.step("TERMINATED", "PENDING", after=10)
    assert search.told == ["waiting for a node: no trial runs, each takes 2 CPUs and 0.5 GPUs"]
    for _ in range(3):
        search.step("TERMINATED", "RUNNING", "PENDING", after=10)
    assert search.told[1:] == [None]


def test_a_search_with_a_trial_that_runs_or_none_that_waits_does_not_stand_still(search):
    for states in (("RUNNING", "PENDING"), ("TERMINATED",), ()):
        search.step(*states)
        search.step(*states, after=10 * _STANDSTILL_SECONDS)
    search.step("PENDING")
    search.step("RUNNING", after=_STANDSTILL_SECONDS - 1)
    search.step("PENDING", after=1)
    search.step("PENDING", after=_STANDSTILL_SECONDS - 1)
    assert search.told == []


def lose_worker(folder, error: RayError):
    """The first trial of a search, whose worker is lost with this error in every try; and whether the next attempt runs it again."""
    with Store(default_url(str(folder))) as store:
        job = make_job(str(folder), budgets=(Budget.parse("80%"),))
        searcher = CoordinatorSearcher(make_coordinator(job, store, folder), {})
        number = searcher.suggest("tune")["trial_number"]
        try:
            raise error
        except RayError:
            text = traceback.format_exc()
        searcher.on_trial_complete("tune", error=True)
        LostWorkerCallback(searcher).on_trial_error(1, [], SimpleNamespace(trial_id="tune", get_error=lambda: text))
        (result,) = [trial for trial in store.trials(job.id) if trial.number == number]
        store.begin_attempt(job.id)
        again = [trial.result.number for trial in TrialIndex(store, job.id).unfinished]
        return result, again == [number]


@pytest.mark.faults
def test_a_trial_that_was_ended_for_memory_says_so_and_what_needs_less(tmp_path):
    result, again = lose_worker(tmp_path, OutOfMemoryError("Task was killed due to the node running low on memory."))
    assert (result.state, result.error_class) == (TrialState.FAILED, ErrorClass.OUT_OF_MEMORY)
    assert "node running low on memory" in result.error
    last = result.error.splitlines()[-1]
    assert last.startswith("the trial was ended for memory")
    assert "--batch-size" in last
    assert again


def test_a_trial_whose_worker_was_lost_otherwise_does_not_speak_of_memory(tmp_path):
    result, again = lose_worker(tmp_path, ActorDiedError())
    assert result.error_class == ErrorClass.WORKER_LOST
    assert "memory" not in result.error.splitlines()[-1]
    assert again
