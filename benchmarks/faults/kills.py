"""Processes of the service that are killed, asked to end, or get no more memory in the middle of a job."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from functools import partial

import psutil

from faults.case import Case, Stage

_NUMBERS = (signal.SIGKILL, signal.SIGTERM)
"""SIGINT is handled by the same lines as SIGTERM."""

_STALL_MINUTES = 1.0
"""Far longer than a step of the job's tiny model, and than its processes take to open it."""


def _api(stage: Stage, *, number: signal.Signals) -> str:
    """Started again at its end, as a service manager does."""
    stage.service.api.send_signal(number)
    stage.service.end()
    stage.service.start()
    return ""


def _supervisor(stage: Stage, *, number: signal.Signals) -> str:
    stage.service.supervisor().send_signal(number)
    return ""


def _driver(stage: Stage, *, number: signal.Signals) -> str:
    stage.driver().send_signal(number)
    return ""


def _trial(stage: Stage, *, number: signal.Signals) -> str:
    stage.trial().send_signal(number)
    return ""


def _memory(stage: Stage) -> str:
    """What the process asks for from now on fails, as on a machine that overcommits nothing."""
    trial = stage.trial()
    trial.rlimit(psutil.RLIMIT_AS, (trial.memory_info().vms,) * 2)
    return ""


def _everything(stage: Stage) -> str:
    for process in stage.service.everything(stage.driver()):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    stage.service.end()
    stage.service.start()
    return ""


def _both(name: str, strike: Callable[..., str]) -> list[Case]:
    return [Case(f"{name}: {number.name}", partial(strike, number=number), job="longer") for number in _NUMBERS]


# A new driver, with a Ray of its own, takes half a minute until it trains.
CASES = [
    *_both("API, then started again", _api),
    *_both("supervisor", _supervisor),
    *_both("driver", _driver),
    Case("process of a trial: SIGKILL", partial(_trial, number=signal.SIGKILL)),
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
