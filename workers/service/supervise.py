"""`supervise`: a supervisor as a process, the only one of its root folder on this machine."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from autoslim.store import Queue
from workers.service.executor import Executor
from workers.service.heartbeat import Heartbeat
from workers.service.local_executor import LocalExecutor
from workers.service.settings import DriverSettings
from workers.service.stop_request import StopRequest
from workers.service.supervisor import ROUND_SECONDS, Supervisor
from workers.service.supervisor_lock import SupervisorLock


def supervise(
    settings: DriverSettings,
    executor: Executor,
    *,
    jobs: int = 1,
    round_seconds: float = ROUND_SECONDS,
    until_end_of: int | None = None,
    heartbeat: Path | None = None,
    beside: Callable[[Queue], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> None:
    """Runs the supervisor until SIGINT or SIGTERM, or until the stream of the descriptor `until_end_of` ends.

    `heartbeat` is a file whose time of change is that of the last round, or of the last look at the other supervisor.
    `beside` makes what runs for as long as it does, of its queue, such as the webhooks.

    Stopping it stops the drivers of this machine, whose jobs the next supervisor resumes; drivers on a cluster continue. While
    another supervisor of this machine runs the jobs of the same root, this one waits.

    Raises:
        RequestError: for a storage that is not valid.
        OutputError: for a root that cannot be written or locked, or a heartbeat that cannot be written.
        UnavailableError: when the database cannot be reached at the start.
    """
    stop, lock, heart = StopRequest(), SupervisorLock(settings.root), Heartbeat(heartbeat)
    stop.on_signals()
    if until_end_of is not None:
        stop.on_end_of(until_end_of)
    if not lock.acquire(stop, os.getpid(), beat=heart.beat):
        return
    with lock, Queue(settings.storage) as queue, beside(queue):
        Supervisor(
            queue,
            executor,
            max_drivers=jobs,
            lease_seconds=settings.lease_seconds,
            round_seconds=round_seconds,
            stop=stop,
            beat=heart.beat,
        ).run()


def choose_executor(settings: DriverSettings, *, dashboard: str | None = None, python: str = sys.executable) -> Executor:
    """Drivers as processes of this machine or, with the URL of a Ray cluster's `dashboard`, as its jobs, run by the cluster's `python`."""
    if dashboard is None:
        return LocalExecutor(settings)
    from workers.service.ray_executor import RayJobsExecutor

    return RayJobsExecutor(settings, dashboard=dashboard, python=python)
