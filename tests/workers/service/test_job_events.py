"""A job's events say which of its attempts wrote them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from helpers.sample_search import make_result

from autoslim.core.result import Target, TrialState
from autoslim.core.urls import default_url
from autoslim.store import Claim, Queue
from workers.progress.callbacks import SearchStage
from workers.service.job_events import JobEvents
from workers.service.log_tee import LogTee


def drive(queue: Queue, lines: io.StringIO) -> Claim:
    """An attempt that begins with a trial and waits, of the job that is next."""
    claimed = queue.claim("supervisor", 600)
    assert claimed is not None
    claim = queue.adopt(claimed.id, claimed.attempt, "driver", 600)
    events = JobEvents(queue, claim, LogTee(lines), abandon=pytest.fail)
    events.on_attempt_start([make_result(1, TrialState.RUNNING)])
    events.on_stage_start(SearchStage.SEARCHING)
    events.on_trial_start(make_result(1, TrialState.RUNNING), Target.FREE)
    events.on_wait("its trials wait for nodes")
    events.on_trial_end(make_result(1), Target.FREE)
    return claim


def test_every_event_that_a_driver_writes_has_the_number_of_its_attempt(tmp_path: Path) -> None:
    lines = io.StringIO()
    with Queue(default_url(tmp_path)) as queue:
        job = queue.submit("{}", tenant="mine")[0]
        first = drive(queue, lines)
        queue.expire_lease(job.id, first.attempt)
        drive(queue, lines)
        queue.request_cancel(job.id)
        events = queue.events(job.id)
    written = [(event.type, event.data["attempt"]) for event in events if "attempt" in event.data]
    types = ["message", "state", "trial_began", "message", "trial_ended"]
    assert [event for event in written if event[1] == 2][-5:] == [(type, 2) for type in types]
    assert [event for event in written if event[1] == 1 and event[0] != "state"] == [
        (type, 1) for type in types if type != "state"
    ]
    assert [event.data for event in events if "attempt" not in event.data] == [{"text": "a cancellation was requested"}]
    assert {(line["event"], line["attempt"]) for line in map(json.loads, lines.getvalue().splitlines())} == {
        (type, attempt) for type in types for attempt in (1, 2)
    }
