"""Jobs of the same user beside the job: submitted fifty times at once, cancelled in each state, or bound to fail."""

from __future__ import annotations

import io
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faults.case import Case, Stage
from faults.service import Service, until
from faults.user import PATIENCE, SPEC

_DUPLICATES = 50
_STATES = ("QUEUED", "STARTING", "PREPARING", "SEARCHING", "FINALIZING")
"""All but PAUSED, in which a job is cancelled on a cluster without a node (`cluster.py`)."""
_ORDER = (*_STATES, "SUCCEEDED", "FAILED", "CANCELLED")
_TRIES = 5
"""Jobs for one state: some last a moment only, and may be over before they are seen or the request comes."""
_IMAGES, _CORRUPT = 200, 4
_ONE_TRIAL: dict[str, Any] = {"trials": 1, "epochs": 1.0}
"""Enough of a search for a state to be reached."""

# Of a job


def _submit(stage: Stage, **changes: Any) -> dict[str, Any]:
    """Under a key of its own; the answer, which may be a refusal."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    answer = stage.user.http.post("/v1/jobs", json=SPEC | {"name": stage.other} | changes, headers=headers, timeout=120)
    found: dict[str, Any] = answer.json()
    return found


def _job(stage: Stage, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = stage.user.http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
    return found


def _ended(stage: Stage, job_id: str) -> dict[str, Any]:
    """It runs when the user's own has ended: one job runs at a time."""

    def found() -> dict[str, Any] | None:
        job = _job(stage, job_id)
        return job if job["ended_at"] else None

    return until(found, "the end of another job", seconds=2 * PATIENCE["lasting"])


# Fifty at once


def _duplicates(stage: Stage) -> str:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    together, answers = threading.Barrier(_DUPLICATES), list[tuple[int, str]]()

    def submit() -> None:
        together.wait()
        answer = stage.user.http.post("/v1/jobs", json=SPEC | {"name": stage.other}, headers=headers, timeout=120)
        answers.append((answer.status_code, str(answer.json().get("id", answer.json().get("code")))))

    threads = [threading.Thread(target=submit) for _ in range(_DUPLICATES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = stage.user.http.get(f"/v1/jobs?label={stage.other}").raise_for_status().json()["jobs"]
    stage.user.later += [job["id"] for job in jobs]
    assert len(jobs) == 1, f"{_DUPLICATES} submits of one request made {len(jobs)} jobs"
    assert {told for status, told in answers if status < 300} == {jobs[0]["id"]}, "an answer names another job"
    return ", ".join(f"{count} times {status}" for status, count in Counter(status for status, _ in answers).most_common())


# Cancelled in each state


def _cancelled_in_each_state(stage: Stage) -> str:
    """One job after the other, until each state has had its own; the first waits behind the user's."""
    return "; ".join(cancel_in(stage, state) for state in _STATES)


def cancel_in(stage: Stage, state: str) -> str:
    """Other jobs of the user, one after the other, until one of them is cancelled in this very state; what became of that one.

    Raises AssertionError where none of a few was, and for one that does not obey.
    """
    if state == "STARTING":
        stage.user.until_ended()
    missed = list[str]()
    for _ in range(_TRIES):
        found, told = _cancel_one(stage, state)
        if found == state:
            return told
        missed.append(found)
    raise AssertionError(f"no job was cancelled while {state}; {_TRIES} were while {', '.join(missed)}")


def _cancel_one(stage: Stage, state: str) -> tuple[str, str]:
    """Cancels another job once it is in this state or a later one. The state in which the request found it, and what became of it."""
    job_id = str(_submit(stage, **_ONE_TRIAL)["id"])
    seen = until(lambda: _reached(stage, job_id, state), f"a job that is {state}", seconds=PATIENCE["lasting"])
    asked = time.monotonic()
    answer = str(stage.user.http.post(f"/v1/jobs/{job_id}:cancel").raise_for_status().json()["state"])
    # A job without a driver is CANCELLED by the request itself; any other is as the request has found it.
    found = seen if answer == "CANCELLED" else answer
    ended = str(_ended(stage, job_id)["state"])
    # What is about to be handed over may be handed over.
    assert ended == "CANCELLED" or (found in ("FINALIZING", "SUCCEEDED") and ended == "SUCCEEDED"), (
        f"cancelled while {found}: {ended}"
    )
    return found, f"cancelled while {found}: {ended} after {time.monotonic() - asked:.1f} s"


def _reached(stage: Stage, job_id: str, state: str) -> str | None:
    """The state that it is in, once that is `state` or a later one: some last a moment only."""
    now = str(_job(stage, job_id)["state"])
    later = _ORDER[_ORDER.index(state) :] if state in _ORDER else (state,)
    return now if now in later else None


# Bound to fail


def _fails(stage: Stage, *, failure: str, **changes: Any) -> str:
    """Another job ends with a failure of this class, a sentence and a command, and the user's own job does not notice."""
    answer = _submit(stage, **changes)
    assert "id" in answer, f"refused: {answer}"
    job = _ended(stage, answer["id"])
    assert job["state"] == "FAILED" and job["failure"]["failure_class"] == failure, f"{job['state']}: {job['failure']}"
    return f"FAILED: {failure}: {job['failure']['message']}; next: {job['failure']['next']}".replace(job["id"], "ID")


@contextmanager
def _with_images(folder: Path) -> Iterator[Service]:
    """A service whose data root has two classes of images, of which a few are cut short."""
    numbers = np.random.default_rng(0)
    for name in ("light", "dark"):
        (folder / "data" / "images" / name).mkdir(parents=True)
    for number in range(_IMAGES):
        low = 128 * (number % 2)
        file = io.BytesIO()
        Image.fromarray(numbers.integers(low, low + 128, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
        data = file.getvalue()
        cut = data[: len(data) // 2] if number < _CORRUPT else data
        (folder / "data" / "images" / ("dark", "light")[number % 2] / f"{number}.png").write_bytes(cut)
    with Service(folder, options=("--data-root", str(folder / "data"))).running() as service:
        yield service


def _corrupt(stage: Stage) -> str:
    """They are an error unless the user allows for so many, and then they are left out and named."""
    data = str(stage.folder / "data" / "images")
    strict = _submit(stage, data=data)
    told = strict if "id" not in strict else _ended(stage, strict["id"])
    reason = str(told.get("detail") or (told.get("failure") or {}).get("message"))
    assert told["state"] == "FAILED" if "id" in strict else told["status"] == 422, told
    lenient = _ended(stage, str(_submit(stage, data=data, unreadable_share="30%", **_ONE_TRIAL)["id"]))
    assert lenient["state"] == "SUCCEEDED", lenient["failure"]
    return f"none allowed: {reason}; 30 % of a split allowed: {lenient['state']}".replace(str(stage.folder), "FOLDER")


CASES = [
    Case(f"{_DUPLICATES} submits of one request at once", _duplicates),
    Case("other jobs cancelled in each state", _cancelled_in_each_state),
    Case("another job whose loss is not a number", partial(_fails, failure="DIVERGED", base_lr=1e38)),
    Case(f"another job with {_CORRUPT} of {_IMAGES} images corrupt", _corrupt, host=_with_images),
]
