"""Which process a fault hits, and what a job's user hears of it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults.kills import ended_for_memory, failed_trial, lost_trial
from faults.service import Service, until
from faults.user import User
from helpers.driven_job import DrivenJob
from helpers.running_service import RunningService, running, settings_in
from helpers.sample_search import make_job, make_result

from autoslim.core.result import Target, TrialState
from autoslim.core.urls import default_url
from autoslim.progress.display import LineDisplay
from autoslim.store import Queue
from workers.progress.callbacks import CallbackList
from workers.progress.console import Console
from workers.service.job_events import JobEvents
from workers.service.log_tee import LogTee

LOST = "trial 2 (1/4 done) sit goes on from its checkpoint: its worker was lost"


def failed(kind: str, error: str) -> dict[str, Any]:
    return {"type": "trial_ended", "data": {"trial": 3, "state": "failed", "error_class": kind, "error": error}}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    with running(settings_in(tmp_path)) as service:
        yield service


@pytest.fixture
def user(service: RunningService) -> Iterator[User]:
    """Of a job that a driver has begun with, and that is looked at by nobody."""
    user = User(service.url, service.key(tenant="mine"), patience=60.0)
    user.job = user.http.get(f"/v1/jobs/{service.put('mine').id}").json()
    yield user
    user.close()


def test_a_jobs_events_say_once_that_a_trial_has_lost_its_process_and_that_another_has_failed(tmp_path: Path) -> None:
    with Queue(default_url(tmp_path)) as queue:
        job = queue.submit("{}", tenant="mine")[0]
        claim = queue.claim("supervisor", 600)
        assert claim is not None
        events = JobEvents(queue, queue.adopt(job.id, claim.attempt, "driver", 600), LogTee(io.StringIO()), abandon=pytest.fail)
        # As `run_search` puts them together.
        console = Console(make_job(), LineDisplay(io.StringIO()), forward=events.on_message)
        callbacks = CallbackList([console, events])
        callbacks.on_message("the dense model goes on from its checkpoint: its worker was lost")
        callbacks.on_trial_lost(make_result(7, TrialState.RUNNING), "its process did nothing any more")
        error = "Traceback\nMemoryError: nothing left"
        callbacks.on_trial_end(make_result(8, TrialState.FAILED, error_class="MemoryError", error=error), Target.FREE)
        callbacks.on_trial_end(make_result(9), Target.FREE)
        told = [{"type": event.type, "data": event.data} for event in queue.events(job.id)]
    (lost,) = filter(None, map(lost_trial, told))
    assert lost.startswith("trial 07 (0/") and lost.endswith("goes on from its checkpoint: its process did nothing any more")
    assert list(filter(None, map(failed_trial, told))) == ["trial 8 failed: MemoryError: MemoryError: nothing left"]


def test_what_a_user_waits_for_is_told_without_the_jobs_own_id(service: RunningService, user: User) -> None:
    driven = DrivenJob(service, user.job["id"])
    driven.tell("message", text=f"job {driven.id} goes on")
    driven.tell("message", text=LOST)
    assert user.until_heard(lost_trial, "a lost trial") == LOST
    assert user.until_heard(lambda event: event["data"].get("text"), "anything") == f"job {driven.id} goes on"
    assert list(user.told) == [LOST, "job ID goes on"]


def test_a_user_waits_for_nothing_that_the_jobs_end_has_not_brought(service: RunningService, user: User) -> None:
    driven = DrivenJob(service, user.job["id"])
    driven.tell("message", text=LOST)
    driven.fail()
    user.job = user.http.get(f"/v1/jobs/{driven.id}").json()
    assert user.until_heard(lost_trial, "a lost trial") == LOST
    with pytest.raises(TimeoutError, match="the job has ended without a failed trial"):
        user.until_heard(failed_trial, "a failed trial")


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"type": "message", "data": {"text": LOST}}, LOST),
        ({"type": "trial_ended", "data": {"trial": 3, "state": "complete"}}, None),
        ({"type": "state", "data": {"state": "SEARCHING"}}, None),
        (failed("RuntimeError", "cannot allocate memory"), "trial 3 failed: RuntimeError: cannot allocate memory"),
        (failed("RuntimeError", "can't start new thread"), "trial 3 failed: RuntimeError: can't start new thread"),
        (failed("RuntimeError", "could not create a primitive"), "trial 3 failed: RuntimeError: could not create a primitive"),
    ],
)
def test_a_trial_without_memory_is_lost_or_fails(event: dict[str, Any], told: str | None) -> None:
    assert ended_for_memory(event) == told


@pytest.mark.parametrize(
    "event",
    [
        failed("DivergedError", "the loss is nan"),
        {"type": "message", "data": {"text": LOST.replace("was lost", "left its node")}},
    ],
)
def test_another_end_is_no_end_for_memory(event: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="not for memory: trial"):
        ended_for_memory(event)


@pytest.mark.parametrize("last", ["ray::IDLE", "ray::ResourceTrainable", "ray::ResourceTrainable.train"])
def test_only_a_process_in_which_a_trial_runs_is_hit(tmp_path: Path, last: str) -> None:
    """Not one that waits for its next trial: its end would say nothing of a trial."""
    service, names = Service(tmp_path), ["ray::ResourceTrainable", last]
    (service.root / "drivers").mkdir()
    children = " ".join(f"(exec -a {name} sleep 600) &" for name in names)
    with subprocess.Popen(["bash", "-c", f"{children} wait"], start_new_session=True) as driver:
        try:
            until(lambda: _names(driver.pid) == sorted(names) or None, "the processes")
            assert service.trial("job") is None, "no driver is known yet"
            (service.root / "drivers" / "job-1.json").write_text(json.dumps({"pid": driver.pid}))
            found = service.trial("job")
            assert (None if found is None else found.cmdline()[0]) == (last if last.endswith(".train") else None)
            assert service.trial("another") is None
        finally:
            os.killpg(driver.pid, signal.SIGKILL)


def _names(pid: int) -> list[str]:
    return sorted(process.cmdline()[0] for process in psutil.Process(pid).children(recursive=True) if process.cmdline())
