"""Processes that are stopped, doubled or killed at the moment that matters: a lease that ends, a lock, a submit."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import threading
import time
import uuid

import httpx
import psutil

from faults.case import Case, Stage
from faults.service import until
from faults.user import SPEC

# Each with a budget of its own, so that its plan has to be made: until then there is no answer.
_BUDGETS = ("41%", "42%", "43%", "44%", "45%", "46%", "47%", "48%")
_SUBMIT_SECONDS = 60.0


def _frozen(stage: Stage) -> str:
    """The driver is stopped past its lease, and woken when the job has another one."""
    attempt, driver = stage.user.job["attempt"], stage.driver()
    _freeze(stage, driver)
    until(lambda: stage.user.job["attempt"] > attempt or None, "another attempt", seconds=600)
    with contextlib.suppress(psutil.NoSuchProcess):
        driver.resume()
    return ""


def _freeze(stage: Stage, process: psutil.Process) -> None:
    """Between two of its transactions: within one, it would keep the lock of the SQLite file for as long as it is stopped."""
    while True:
        process.suspend()
        with contextlib.closing(sqlite3.connect(stage.service.root / "autoslim.db", timeout=0.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
                return
            except sqlite3.OperationalError:
                process.resume()
        time.sleep(0.01)


def _second_supervisor(stage: Stage) -> str:
    """It waits while the first one lives, and takes over when that is killed."""
    first, waits = stage.service.supervisor(), "this one waits until that one has ended"
    second = stage.service.beside("supervise", "--root", str(stage.service.root))
    until(lambda: waits in stage.service.log() or None, "a supervisor that waits")
    first.send_signal(signal.SIGKILL)
    until(lambda: _holds_lock(stage, second) or None, "the second supervisor at work")
    return f"the second supervisor runs the jobs of {len(list((stage.service.root / 'drivers').glob('*.json')))} driver"


def _holds_lock(stage: Stage, process: subprocess.Popen[bytes]) -> bool:
    (holder,) = stage.service.root.glob("supervisor-*.json")
    return bool(json.loads(holder.read_text())["pid"] == process.pid)


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
        # Nobody may take it before the lease has run out: 60 s.
        job="longest",
    ),
    Case("two supervisors, the first killed", _second_supervisor, shares=False),
    Case(f"API killed during {len(_BUDGETS)} submits, then started again", _killed_during_submits, job="longer"),
]
