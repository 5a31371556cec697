"""A fault's case cancels a job in the very state that it names, or fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults import beside
from faults.beside import cancel_in
from faults.case import Stage
from faults.service import Service
from faults.user import User


class Jobs:
    """A service's answers. Each job is in the states of its row, one more at every look at it; a request to cancel finds it in the last
    one that was looked at, unless `passes`, and ends it.
    """

    def __init__(self, *rows: tuple[str, ...], passes: bool = False, obey: bool = True) -> None:
        self._rows, self._passes, self._obey = rows, passes, obey
        self.looks: list[int] = []
        self.cancelled: list[int] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/jobs":
            self.looks.append(0)
            return httpx.Response(201, json={"id": str(len(self.looks) - 1)})
        number, _, verb = request.url.path.removeprefix("/v1/jobs/").partition(":")
        job = int(number)
        return httpx.Response(202, json={"state": self._cancel(job)}) if verb else httpx.Response(200, json=self._look(job))

    def _look(self, job: int) -> dict[str, Any]:
        if job in self.cancelled:
            return {"state": "CANCELLED" if self._obey else "SUCCEEDED", "ended_at": "2026-01-01T00:00:00Z"}
        self.looks[job] += 1
        state = self._state(job, self.looks[job])
        return {"state": state, "ended_at": "2026-01-01T00:00:00Z" if state == "SUCCEEDED" else None}

    def _cancel(self, job: int) -> str:
        state = self._state(job, self.looks[job] + self._passes)
        if state == "SUCCEEDED":
            # The request changes nothing.
            return state
        self.cancelled.append(job)
        return "CANCELLED" if state in ("QUEUED", "PAUSED") else state

    def _state(self, job: int, looks: int) -> str:
        row = self._rows[job]
        return row[min(looks, len(row)) - 1]


@pytest.fixture
def stage_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Jobs], Stage]]:
    monkeypatch.setattr("faults.service.time.sleep", lambda _: None)
    user = User("http://service", patience=1.0)
    user.http.close()

    def stage(jobs: Jobs) -> Stage:
        user.http = httpx.Client(base_url="http://service", transport=httpx.MockTransport(jobs.answer))
        return Stage(tmp_path, Service(tmp_path), user)

    yield stage
    user.close()


def test_a_job_that_is_first_seen_in_a_later_state_is_cancelled_and_the_next_one_tried(stage_of: Callable[[Jobs], Stage]) -> None:
    jobs = Jobs(("FINALIZING",), ("SUCCEEDED",), ("PREPARING", "SEARCHING"))
    assert cancel_in(stage_of(jobs), "SEARCHING").startswith("cancelled while SEARCHING: CANCELLED after ")
    assert jobs.cancelled == [0, 2]


def test_a_state_that_is_over_when_the_request_comes_is_not_taken_for_the_one_before(stage_of: Callable[[Jobs], Stage]) -> None:
    jobs = Jobs(*[("PREPARING", "SEARCHING")] * 5, passes=True)
    with pytest.raises(AssertionError, match="no job was cancelled while PREPARING; 5 were while SEARCHING, SEARCHING"):
        cancel_in(stage_of(jobs), "PREPARING")


@pytest.mark.parametrize("state", ["QUEUED", "PAUSED"])
def test_a_job_that_nobody_runs_is_cancelled_at_once_in_the_state_that_was_seen(
    stage_of: Callable[[Jobs], Stage], state: str
) -> None:
    jobs = Jobs(("QUEUED", "STARTING", "PAUSED") if state == "PAUSED" else ("QUEUED",))
    assert cancel_in(stage_of(jobs), state).startswith(f"cancelled while {state}: CANCELLED after ")


def test_a_state_that_no_job_is_seen_in_fails_the_case_after_a_few(stage_of: Callable[[Jobs], Stage]) -> None:
    jobs = Jobs(*[("FINALIZING",)] * 6)
    with pytest.raises(AssertionError, match="no job was cancelled while SEARCHING; 5 were while FINALIZING"):
        cancel_in(stage_of(jobs), "SEARCHING")
    assert jobs.cancelled == [0, 1, 2, 3, 4]


def test_a_job_that_goes_on_after_its_cancellation_fails_the_case(stage_of: Callable[[Jobs], Stage]) -> None:
    with pytest.raises(AssertionError, match="cancelled while SEARCHING: SUCCEEDED"):
        cancel_in(stage_of(Jobs(("SEARCHING",), obey=False)), "SEARCHING")
    assert cancel_in(stage_of(Jobs(("FINALIZING",), obey=False)), "FINALIZING").startswith(
        "cancelled while FINALIZING: SUCCEEDED"
    )


def test_every_state_but_paused_has_a_job_that_is_cancelled_in_it(stage_of: Callable[[Jobs], Stage]) -> None:
    states = ("QUEUED", "STARTING", "PREPARING", "SEARCHING", "FINALIZING")
    jobs = Jobs(states[:1], states[2:3], *[(state,) for state in states[1:]])
    stage = stage_of(jobs)
    # The user's own job is over.
    stage.user._ended_at = 1.0
    (strike,) = (case.strike for case in beside.CASES if case.name == "other jobs cancelled in each state")
    assert [told.split(":")[0] for told in strike(stage).split("; ")] == [f"cancelled while {state}" for state in states]
    assert len(jobs.cancelled) == 6
