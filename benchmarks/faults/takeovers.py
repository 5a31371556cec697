"""Processes that are stopped, doubled or killed at the moment that matters: a lease that ends, a lock, a submit."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from faults.case import Case, Stage
from faults.service import Service, until
from faults.user import SPEC
from workers.service.local_executor import STOP_GRACE

# Each with a budget of its own, so that its plan has to be made: until then there is no answer.
_BUDGETS = ("41%", "42%", "43%", "44%", "45%", "46%", "47%", "48%")
_SUBMIT_SECONDS = 60.0
_WAITS = "its earlier driver is being stopped"
"""The reason of a job whose next attempt has begun while the last one's driver lives."""
_LOST = re.compile(r"the lease ran out|is no longer held by \S+ \(attempt \d+\)")
"""What a driver says that has lost its lease: by its own clock, or by the database's answer, whichever it hears of first."""


@contextlib.contextmanager
def _two_at_once(folder: Path) -> Iterator[Service]:
    """With room for two jobs: a driver that is stopped has its job's place for as long as it lives."""
    with Service(folder, environment={"AUTOSLIM_JOBS": "2"}).running() as service:
        yield service


def _frozen(stage: Stage) -> str:
    """The driver is stopped past its lease, and woken when the supervisor has the job for the next attempt and has asked it to end: it
    notices that another has the job, writes nothing, and ends long before it would be killed."""
    attempt, driver = stage.user.job["attempt"], stage.driver()
    _freeze(stage, driver)
    # What the next attempt waits for; so nothing but the woken driver can write of the search meanwhile.
    until(lambda: stage.user.job["attempt"] > attempt or None, "another attempt")
    until(lambda: stage.user.job["reason"] == _WAITS or None, f"a job that says: {_WAITS}")
    assert driver.status() == psutil.STATUS_STOPPED, f"the driver was not stopped any more, but {driver.status()}"
    before, woken_at = _written(stage, attempt), time.monotonic()
    driver.resume()
    until(lambda: _has_ended(driver) or None, "the end of the woken driver", seconds=STOP_GRACE / 2)
    after, seconds = _written(stage, attempt), time.monotonic() - woken_at
    changed = [table for table in before if before[table] != after[table]]
    assert not changed, f"the woken driver has written to {', '.join(changed)}"
    assert "did not end after SIGTERM" not in stage.service.log(), "the woken driver was killed"
    log = (stage.service.root / "jobs" / stage.user.job["id"] / "logs" / f"attempt-{attempt}.log").read_text(errors="replace")
    said = _LOST.search(log)
    assert said is not None, f"the woken driver does not say that it has lost its lease: {log[-500:]}"
    return f"the woken driver ended after {seconds:.1f} s, nothing written: {said[0]}"


def _freeze(stage: Stage, process: psutil.Process) -> None:
    """Between two of its transactions: within one, it would keep the lock of the SQLite file for as long as it is stopped."""

    def frozen() -> bool | None:
        process.suspend()
        # The signal may take a moment.
        until(lambda: process.status() == psutil.STATUS_STOPPED or None, "a driver that is stopped")
        with contextlib.closing(sqlite3.connect(stage.service.root / "autoslim.db", timeout=0.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
                return True
            except sqlite3.OperationalError:
                process.resume()
        return None

    until(frozen, "a moment between two transactions")


def _has_ended(process: psutil.Process) -> bool:
    """Also where its parent has not asked for its exit code yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _written(stage: Stage, attempt: int) -> dict[str, list[tuple[object, ...]]]:
    """All rows of the job's search, and its events without the states of later attempts, by table."""
    job_id = stage.user.job["id"]
    with contextlib.closing(
        sqlite3.connect(f"file:{stage.service.root / 'autoslim.db'}?mode=ro", timeout=60, uri=True)
    ) as reader:
        rows = {
            table: reader.execute(f"SELECT * FROM autoslim_{table} WHERE {key} = ? ORDER BY 1, 2, 3", (job_id,)).fetchall()
            for table, key in {"jobs": "id", "trials": "job_id", "epochs": "job_id", "tracking": "job_id"}.items()
        }
        events = reader.execute("SELECT seq, type, data FROM autoslim_events WHERE job_id = ? ORDER BY seq", (job_id,)).fetchall()
    later = {seq for seq, type, data in events if type == "state" and json.loads(data)["attempt"] > attempt}
    return rows | {"events": [event for event in events if event[0] not in later]}


def _second_supervisor(stage: Stage) -> str:
    """It waits while the first one lives. When that is killed it takes over, or the one does that the API starts in the place of the first:
    whichever asks for the lock sooner."""
    first, waits = stage.service.supervisor(), "this one waits until that one has ended"
    second = stage.service.beside("supervise", "--root", str(stage.service.root))
    until(lambda: waits in stage.service.log() or None, "a supervisor that waits")
    first.send_signal(signal.SIGKILL)
    holder = until(lambda: _other_holder(stage, first.pid), "another supervisor at work")
    assert second.poll() is None, "the supervisor that waits has ended"
    which = "the one that waited" if holder == second.pid else "another one, which the API has started,"
    return f"{which} runs the jobs of {len(list((stage.service.root / 'drivers').glob('*.json')))} driver"


def _other_holder(stage: Stage, first: int) -> int | None:
    """The process that holds the supervisors' lock, unless it is `first`."""
    (holder,) = stage.service.root.glob("supervisor-*.json")
    process = int(json.loads(holder.read_text())["pid"])
    return None if process == first else process


def _killed_during_submits(stage: Stage) -> str:
    """Other requests, each repeated under its key until there is an answer, while the API is killed and started again: at the first answer,
    when the others wait for theirs."""
    keys = {budget: str(uuid.uuid4()) for budget in _BUDGETS}
    answers: dict[str, str] = {}
    answered = threading.Event()

    def submit(budget: str) -> None:
        answers[budget] = until(lambda: _submitted(stage, budget, keys[budget]), "an answer to a submit")
        answered.set()

    threads = [threading.Thread(target=submit, args=(budget,)) for budget in _BUDGETS]
    for thread in threads:
        thread.start()
    assert answered.wait(_SUBMIT_SECONDS), f"no submit was answered within {_SUBMIT_SECONDS:.0f} s"
    early = len(answers)
    stage.service.api.send_signal(signal.SIGKILL)
    stage.service.end()
    stage.service.start()
    for thread in threads:
        thread.join()
    assert early < len(keys), "every submit was answered before the API was killed"
    again = {
        budget: until(lambda budget=budget: _submitted(stage, budget, keys[budget]), "an answer to the same submit")
        for budget in _BUDGETS
    }
    jobs = stage.user.http.get(f"/v1/jobs?label={stage.other}").raise_for_status().json()["jobs"]
    stage.user.later += [job["id"] for job in jobs]
    assert again == answers, "a submit made another job the second time"
    assert sorted(job["id"] for job in jobs) == sorted(answers.values()), "a submit made more than one job, or none"
    return f"{len(keys)} submits meanwhile: {len(jobs)} jobs"


def _submitted(stage: Stage, budget: str, key: str) -> str | None:
    spec = SPEC | {"name": stage.other, "flops": [budget]}
    try:
        with httpx.Client(base_url=stage.service.url, timeout=_SUBMIT_SECONDS, trust_env=False) as client:
            answer = client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": key})
    except httpx.HTTPError:
        return None
    return str(answer.json()["id"]) if answer.is_success else None


CASES = [
    Case(
        "driver stopped (SIGSTOP) past its lease, woken when another has the job",
        _frozen,
        host=_two_at_once,
        attempts=2,
        # Nobody may take it before the lease has run out: 60 s.
        job="longest",
    ),
    Case("two supervisors, the first killed", _second_supervisor, shares=False),
    Case(f"API killed during {len(_BUDGETS)} submits, then started again", _killed_during_submits, job="longer"),
]
