"""Processes of the service that are killed, asked to end, or get no more memory in the middle of a job.

A fault after which the job goes on in the same attempt shows in nothing else: what it leads to is waited for.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil

from faults.case import Case, Stage
from faults.service import until

_NUMBERS = (signal.SIGKILL, signal.SIGTERM)
"""SIGINT is handled by the same lines as SIGTERM."""

_STALL_MINUTES = 1.0
"""Far longer than a step of the job's tiny model, and than its processes take to open it."""

_FOR_MEMORY = re.compile(
    r"its worker was lost$|its node had too little memory left$|its process did nothing any more$|(?i:memory)|can't start new thread"
    r"|bad_alloc|Resource temporarily unavailable|could not create a primitive$"
)
"""How a trial ends whose process gets no more memory: the process is lost, hangs and is ended, or lives and the trial fails. The last is
what oneDNN says, which gives no reason."""


def _api(stage: Stage, *, number: signal.Signals) -> str:
    """Started again at its end, as a service manager does."""
    stage.service.api.send_signal(number)
    stage.service.end()
    stage.service.start()
    # The next fault, of another job, finds an API and a supervisor.
    stage.service.until_ready()
    return ""


def _supervisor(stage: Stage, *, number: signal.Signals) -> str:
    first, began = stage.service.supervisor(), time.monotonic()
    first.send_signal(number)
    until(lambda: stage.service.supervisor().pid != first.pid or None, "another supervisor")
    return f"another supervisor after {time.monotonic() - began:.1f} s"


def _driver(stage: Stage, *, number: signal.Signals) -> str:
    stage.driver().send_signal(number)
    return ""


def _trial(stage: Stage, *, number: signal.Signals) -> str:
    trial, heard = stage.trial(), stage.user.heard()
    trial.send_signal(number)
    stage.user.until_heard(lost_trial, "a trial that has lost its process", after=heard)
    return ""


def lost_trial(event: dict[str, Any]) -> str | None:
    """What an event says of a trial that has lost its process and is run again."""
    text = str(event["data"].get("text", ""))
    return text if re.match(r"trial \d+ .*goes on from its checkpoint: ", text) else None


def _memory(stage: Stage) -> str:
    """What the process asks for from now on fails, as on a machine that overcommits nothing."""
    trial, heard = stage.trial(), stage.user.heard()
    trial.rlimit(psutil.RLIMIT_AS, (trial.memory_info().vms,) * 2)
    stage.user.until_heard(ended_for_memory, "a trial that has asked for memory", after=heard)
    return ""


def ended_for_memory(event: dict[str, Any]) -> str | None:
    """What an event says of a trial that has lost its process or has failed. Raises AssertionError where that is not for memory."""
    told = lost_trial(event) or failed_trial(event)
    assert told is None or _FOR_MEMORY.search(told), f"not for memory: {told}"
    return told


def failed_trial(event: dict[str, Any]) -> str | None:
    """What an event says of a trial that has failed."""
    data = event["data"]
    if event["type"] != "trial_ended" or data["state"] != "failed":
        return None
    return f"trial {data['trial']} failed: {data['error_class']}: {data['error']}"


def _everything(stage: Stage) -> str:
    for process in stage.service.everything(stage.driver()):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    stage.service.end()
    stage.service.start()
    stage.service.until_ready()
    return ""


def _both(name: str, strike: Callable[..., str], *, killed: int | None = None) -> list[Case]:
    """`killed` are the attempts of a job after SIGKILL."""
    attempts = {signal.SIGKILL: killed}
    return [
        Case(f"{name}: {number.name}", partial(strike, number=number), job="longer", attempts=attempts.get(number))
        for number in _NUMBERS
    ]


# A new driver, with a Ray of its own, takes half a minute until it trains.
CASES = [
    *_both("API, then started again", _api),
    # The next supervisor adopts the driver.
    *_both("supervisor", _supervisor, killed=1),
    *_both("driver", _driver, killed=2),
    Case("process of a trial: SIGKILL", partial(_trial, number=signal.SIGKILL), attempts=1),
    Case(
        "process of a trial: no more memory",
        _memory,
        may_fail=True,
        # Where it hangs instead of failing, as CPython does where it starts a thread, it is ended after this time.
        job="longest",
        spec={"stall_minutes": _STALL_MINUTES},
    ),
    Case("every process at once: SIGKILL, then started again", _everything, job="longer"),
]
