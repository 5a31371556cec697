"""The supervisor: takes jobs from the queue, starts their drivers, and sees to it that none has two and none is left without one.

All that it must not forget is in the queue, so that it may be killed at any moment. Drivers keep their own leases and hear of
cancellations themselves; they go on while there is no supervisor.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import signal
import socket
import sys
import time
from types import FrameType

from autoslim.errors import ClusterError, LeaseLostError
from autoslim.store import Claim, Queue, QueuedJob, QueueState
from autoslim.store.queued import RUNNING
from workers.service.executor import Driver, Executor
from workers.service.local_executor import LocalExecutor
from workers.service.settings import DriverSettings

_log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two rounds."""
_LONGEST_PAUSE = 30.0
_START_PATIENCE = 60.0
"""Seconds for which a driver that cannot be started is tried again before its job is put off."""
_ADOPT_PATIENCE = 300.0
"""Seconds from a driver's start until it must have taken its job over: packages load slowly on cold disks."""
_CANCEL_PATIENCE = 60.0
"""Seconds for a driver to obey a cancellation by itself."""


@dataclasses.dataclass
class _Starting:
    """A job on its way to its driver; `trouble` is why it could not be started yet."""

    claim: Claim
    since: float
    started: bool = False
    trouble: str | None = None

    @property
    def driver(self) -> Driver:
        return Driver(self.claim.id, self.claim.attempt)

    @property
    def age(self) -> float:
        return time.monotonic() - self.since


class Supervisor:
    """`jobs` is how many are driven at a time."""

    def __init__(self, queue: Queue, executor: Executor, *, jobs: int, lease_seconds: float, every: float = EVERY) -> None:
        self._queue, self._executor, self._jobs, self._lease, self._every = queue, executor, jobs, lease_seconds, every
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._starting: dict[str, _Starting] = {}
        self._stopping = False

    def run(self) -> None:
        """Until SIGINT or SIGTERM. What is down is waited for, longer and longer."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        pause = self._every
        while not self._stopping:
            try:
                self.tick()
                pause = self._every
            except ClusterError as error:
                pause = min(2 * pause, _LONGEST_PAUSE)
                _log.warning("%s; next try in %g s", error, pause)
            self._sleep(pause)
        self._wind_up()

    def tick(self) -> None:
        """One round. Raises ClusterError when the database or the cluster cannot be reached."""
        self._queue.reap()
        try:
            drivers = self._executor.list_drivers()
        except ClusterError as error:
            self._put_off(f"infra: {error}")
            raise
        running = {job.id: job for job in self._queue.list(states=RUNNING, limit=10_000)}
        self._reap(drivers, running)
        self._stop_unwanted(drivers, running)
        for starting in list(self._starting.values()):
            self._advance_start(starting, drivers)
        self._claim(drivers)

    def _reap(self, drivers: dict[Driver, bool], running: dict[str, QueuedJob]) -> None:
        """A driver that died without a word: its job need not wait for its lease to run out."""
        for driver, lives in drivers.items():
            if lives:
                continue
            job = running.get(driver.job_id)
            if job is not None and job.attempt == driver.attempt:
                _log.warning("driver %s has died", driver.name, extra={"job_id": driver.job_id})
                self._queue.lose(driver.job_id, driver.attempt)
                self._starting.pop(driver.job_id, None)
            self._executor.forget(driver)

    def _stop_unwanted(self, drivers: dict[Driver, bool], running: dict[str, QueuedJob]) -> None:
        """Drivers whose job has ended, is another's, or was to be cancelled long ago."""
        for driver, lives in drivers.items():
            job = running.get(driver.job_id)
            if lives and (job is None or job.attempt != driver.attempt or _overdue(job)):
                self._executor.stop(driver)

    def _advance_start(self, starting: _Starting, drivers: dict[Driver, bool]) -> None:
        claim = starting.claim
        try:
            cancel = self._queue.renew(claim, self._lease)
            if cancel and not starting.started:
                self._queue.advance(claim, QueueState.CANCELLED)
            elif not starting.started:
                self._start(starting, drivers)
                return
            elif starting.age > _ADOPT_PATIENCE:
                _log.warning("driver %s has not begun within %g s", starting.driver.name, _ADOPT_PATIENCE)
                self._executor.stop(starting.driver)
                self._queue.lose(claim.id, claim.attempt)
            else:
                return
        except LeaseLostError:
            _log.debug("job %s is its driver's now, or has ended", claim.id)
        self._starting.pop(claim.id, None)

    def _start(self, starting: _Starting, drivers: dict[Driver, bool]) -> None:
        """Not before the drivers of earlier attempts are gone.

        One that does not go within two leases has lost its own by then, and has ended itself as soon as it could see that.
        """
        earlier = [driver for driver, lives in drivers.items() if lives and driver.job_id == starting.claim.id]
        if earlier and starting.age < 2 * self._lease:
            for driver in earlier:
                self._executor.stop(driver)
            return
        try:
            self._executor.start(starting.driver)
            starting.started, starting.since = True, time.monotonic()
            _log.info("driver %s is started", starting.driver.name, extra={"job_id": starting.claim.id})
        except (ClusterError, OSError) as error:
            if starting.trouble is None:
                _log.warning("driver %s cannot be started yet: %s", starting.driver.name, error)
            starting.trouble = str(error)
            if starting.age > _START_PATIENCE:
                self._give_back(starting, QueueState.PAUSED, f"infra: {error}")

    def _give_back(self, starting: _Starting, state: QueueState, reason: str) -> None:
        self._starting.pop(starting.claim.id, None)
        try:
            self._queue.advance(starting.claim, state, reason=reason)
        except LeaseLostError:
            _log.debug("job %s was taken meanwhile", starting.claim.id)

    def _put_off(self, reason: str) -> None:
        """Jobs that cannot be started now must not be taken for lost."""
        for starting in list(self._starting.values()):
            if not starting.started:
                self._give_back(starting, QueueState.PAUSED, reason)

    def _claim(self, drivers: dict[Driver, bool]) -> None:
        busy = {driver.job_id for driver, lives in drivers.items() if lives} | self._starting.keys()
        while len(busy) < self._jobs and not self._stopping:
            claim = self._queue.claim(self._owner, self._lease)
            if claim is None:
                return
            busy.add(claim.id)
            starting = self._starting[claim.id] = _Starting(claim, time.monotonic())
            self._advance_start(starting, drivers)

    # The end

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _sleep(self, seconds: float) -> None:
        """In short steps: a signal's handler does not wake a sleeper."""
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            time.sleep(min(0.2, seconds))

    def _wind_up(self) -> None:
        try:
            for starting in list(self._starting.values()):
                if not starting.started:
                    self._give_back(starting, QueueState.QUEUED, "the supervisor was stopped")
        except ClusterError as error:
            _log.warning("%s; the leases will run out", error)
        self._executor.close()


def _overdue(job: QueuedJob) -> bool:
    if job.cancel_requested_at is None:
        return False
    asked = datetime.datetime.fromisoformat(job.cancel_requested_at)
    return (datetime.datetime.now(datetime.UTC) - asked).total_seconds() > _CANCEL_PATIENCE


def supervise(settings: DriverSettings, *, jobs: int = 1, dashboard: str | None = None, python: str = sys.executable) -> None:
    """Runs until SIGINT or SIGTERM.

    Drivers are processes of this machine; or, with the address of a Ray cluster's dashboard, jobs there, run by its `python`. Stopping
    ends those of this machine, whose jobs then go on with the next supervisor; those of a cluster go on by themselves.

    Raises:
        RequestError: for a storage that cannot be used.
        ClusterError: when the database cannot be reached at the start.
    """
    executor: Executor
    if dashboard is None:
        executor = LocalExecutor(settings)
    else:
        from workers.service.ray_executor import RayJobsExecutor

        executor = RayJobsExecutor(settings, dashboard=dashboard, python=python)
    with Queue(settings.storage) as queue:
        Supervisor(queue, executor, jobs=jobs, lease_seconds=settings.lease_seconds).run()
