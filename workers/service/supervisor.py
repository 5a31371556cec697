"""The supervisor: claims jobs from the queue and starts one driver for each.

It reconciles in rounds, as a Kubernetes controller does: every round compares the queue with the drivers that exist. All its lasting state
is in the queue, so that it may be killed at any moment. Drivers renew their own leases and read cancellations themselves; they
continue while there is no supervisor.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import socket
import sys
import time

from autoslim.errors import ClusterError, LeaseLostError
from autoslim.store import Claim, Queue, QueuedJob, QueueState
from autoslim.store.queued import RUNNING
from workers.service.executor import Driver, Executor
from workers.service.local_executor import LocalExecutor
from workers.service.settings import DriverSettings
from workers.service.stop_request import StopRequest
from workers.service.supervisor_lock import SupervisorLock

_log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
"""Time between two rounds: how late a job starts at most while there is room."""
# Between rounds while the database or the cluster is down; doubled up to this.
_MAX_BACKOFF = 30.0
# A driver that cannot be started for this long pauses its job: nodes of a cluster may be on their way until then.
_START_SECONDS = 60.0
# From a driver's start until it must have adopted its job. Importing its packages from a cold disk takes long.
_ADOPT_SECONDS = 300.0
# A driver reads a cancellation within 2 s and gives its search 30 s; one that has not ended by then does not work.
_CANCEL_SECONDS = 60.0
# More jobs than any installation runs at the same time.
_MAX_RUNNING = 10_000


@dataclasses.dataclass
class _Starting:
    """A claimed job whose driver has not adopted it yet; `error` is why the driver could not be started."""

    claim: Claim
    since: float
    started: bool = False
    error: str | None = None

    @property
    def driver(self) -> Driver:
        return Driver(self.claim.id, self.claim.attempt)

    @property
    def age(self) -> float:
        return time.monotonic() - self.since


class Supervisor:
    """Runs at most `jobs` drivers at a time. `lease_seconds` is the lease of a job until its driver adopts it."""

    def __init__(
        self,
        queue: Queue,
        executor: Executor,
        *,
        jobs: int,
        lease_seconds: float,
        round_seconds: float = ROUND_SECONDS,
        stop: StopRequest | None = None,
    ) -> None:
        self._queue, self._executor, self._jobs = queue, executor, jobs
        self._lease, self._round_seconds = lease_seconds, round_seconds
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._starting: dict[str, _Starting] = {}
        self._stop = stop or StopRequest()

    def run(self) -> None:
        """Runs rounds until it is asked to stop, with growing pauses while the database or the cluster is down."""
        pause = self._round_seconds
        while not self._stop.requested:
            try:
                self.tick()
                pause = self._round_seconds
            except ClusterError as error:
                pause = min(2 * pause, _MAX_BACKOFF)
                _log.warning("%s; next try in %g s", error, pause)
            self._stop.sleep(pause)
        self._shut_down()

    def tick(self) -> None:
        """One round.

        Raises:
            ClusterError: when the database or the cluster cannot be reached.
        """
        # Jobs whose lease has ended are queued again first, so that this round can start them.
        self._queue.reap()
        try:
            drivers = self._executor.list_drivers()
        except ClusterError as error:
            self._pause_unstarted(f"infra: {error}")
            raise
        running = {job.id: job for job in self._queue.list(states=RUNNING, limit=_MAX_RUNNING)}
        # Dead and unwanted drivers before new ones: each of them may free a place.
        self._reap(drivers, running)
        self._stop_unwanted(drivers, running)
        for starting in list(self._starting.values()):
            self._advance_start(starting, drivers)
        self._claim(drivers)

    def _reap(self, drivers: dict[Driver, bool], running: dict[str, QueuedJob]) -> None:
        """Requeues the jobs of drivers that died without writing an outcome, without waiting for their leases to end."""
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
        """Stops drivers whose job has ended or has a newer attempt, and those that do not obey a cancellation."""
        for driver, lives in drivers.items():
            job = running.get(driver.job_id)
            if lives and (job is None or job.attempt != driver.attempt or _overdue(job)):
                self._executor.stop(driver)

    def _advance_start(self, starting: _Starting, drivers: dict[Driver, bool]) -> None:
        """Takes a claimed job one step further: cancelled, its driver started, or its start abandoned."""
        claim = starting.claim
        try:
            # The supervisor holds the lease until the driver adopts it, which changes the owner and ends this renewal.
            cancel = self._queue.renew(claim, self._lease)
            if cancel and not starting.started:
                self._queue.advance(claim, QueueState.CANCELLED)
            elif not starting.started:
                self._start(starting, drivers)
                return
            elif starting.age > _ADOPT_SECONDS:
                _log.warning("driver %s has not adopted its job within %g s", starting.driver.name, _ADOPT_SECONDS)
                self._executor.stop(starting.driver)
                self._queue.lose(claim.id, claim.attempt)
            else:
                return
        except LeaseLostError:
            _log.debug("job %s was adopted by its driver, or has ended", claim.id)
        self._starting.pop(claim.id, None)

    def _start(self, starting: _Starting, drivers: dict[Driver, bool]) -> None:
        """Starts the driver when those of earlier attempts are gone, so that two never write the same folder.

        An earlier driver that cannot be stopped within two leases has lost its own lease by then, and exits as soon as it notices.
        """
        earlier = [driver for driver, lives in drivers.items() if lives and driver.job_id == starting.claim.id]
        if earlier and starting.age < 2 * self._lease:
            for driver in earlier:
                self._executor.stop(driver)
            return
        try:
            self._executor.start(starting.driver)
            starting.started, starting.since = True, time.monotonic()
            _log.info("driver %s was started", starting.driver.name, extra={"job_id": starting.claim.id})
        except (ClusterError, OSError) as error:
            # Logged once, since it is tried again every round.
            if starting.error is None:
                _log.warning("driver %s cannot be started yet: %s", starting.driver.name, error)
            starting.error = str(error)
            if starting.age > _START_SECONDS:
                self._release(starting, QueueState.PAUSED, f"infra: {error}")

    def _release(self, starting: _Starting, state: QueueState, reason: str) -> None:
        """Ends the claim and puts the job into `state`."""
        self._starting.pop(starting.claim.id, None)
        try:
            self._queue.advance(starting.claim, state, reason=reason)
        except LeaseLostError:
            _log.debug("job %s was claimed by another supervisor meanwhile", starting.claim.id)

    def _pause_unstarted(self, reason: str) -> None:
        """Pauses claimed jobs: if their leases just ended, they would count as lost, and a job that is lost too often fails."""
        for starting in list(self._starting.values()):
            if not starting.started:
                self._release(starting, QueueState.PAUSED, reason)

    def _claim(self, drivers: dict[Driver, bool]) -> None:
        """Claims queued jobs while there is room."""
        # Any living driver takes a place, also one whose job has ended or is another supervisor's.
        busy = {driver.job_id for driver, lives in drivers.items() if lives} | self._starting.keys()
        while len(busy) < self._jobs and not self._stop.requested:
            claim = self._queue.claim(self._owner, self._lease)
            if claim is None:
                return
            busy.add(claim.id)
            starting = self._starting[claim.id] = _Starting(claim, time.monotonic())
            self._advance_start(starting, drivers)

    def _shut_down(self) -> None:
        try:
            for starting in list(self._starting.values()):
                if not starting.started:
                    self._release(starting, QueueState.QUEUED, "the supervisor was stopped")
        except ClusterError as error:
            # The jobs are queued again when their leases end.
            _log.warning("%s; claimed jobs are queued again when their leases end", error)
        self._executor.close()


def _overdue(job: QueuedJob) -> bool:
    """Whether the driver has had its time to obey a cancellation."""
    if job.cancel_requested_at is None:
        return False
    requested = datetime.datetime.fromisoformat(job.cancel_requested_at)
    return (datetime.datetime.now(datetime.UTC) - requested).total_seconds() > _CANCEL_SECONDS


def supervise(
    settings: DriverSettings,
    executor: Executor,
    *,
    jobs: int = 1,
    round_seconds: float = ROUND_SECONDS,
    parent: int | None = None,
) -> None:
    """Runs the supervisor until SIGINT or SIGTERM, or until the stream of the descriptor `parent` ends.

    Stopping it stops the drivers of this machine, whose jobs the next supervisor resumes; drivers on a cluster continue. While
    another supervisor of this machine runs the jobs of the same root, this one waits.

    Raises:
        RequestError: for a storage that is not valid.
        OutputError: for a root that cannot be written or locked.
        ClusterError: when the database cannot be reached at the start.
    """
    stop, lock = StopRequest(), SupervisorLock(settings.root)
    stop.on_signals()
    if parent is not None:
        stop.on_end_of(parent)
    if not lock.acquire(stop, os.getpid()):
        return
    with lock, Queue(settings.storage) as queue:
        lease = settings.lease_seconds
        Supervisor(queue, executor, jobs=jobs, lease_seconds=lease, round_seconds=round_seconds, stop=stop).run()


def choose_executor(settings: DriverSettings, *, dashboard: str | None = None, python: str = sys.executable) -> Executor:
    """Drivers as processes of this machine or, with the URL of a Ray cluster's `dashboard`, as its jobs, run by the cluster's `python`."""
    if dashboard is None:
        return LocalExecutor(settings)
    from workers.service.ray_executor import RayJobsExecutor

    return RayJobsExecutor(settings, dashboard=dashboard, python=python)
