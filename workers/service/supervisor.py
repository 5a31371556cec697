"""The supervisor: claims jobs from the queue and starts one driver for each.

It reconciles in rounds, as a Kubernetes controller does: every round compares the queue with the drivers that exist. All its lasting state
is in the queue, so that it may be killed at any moment. Drivers renew their own leases and read cancellations themselves; they
continue while there is no supervisor.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import time
from collections.abc import Callable

from autoslim.core.files import is_disk_full
from autoslim.errors import LeaseLostError, UnavailableError
from autoslim.store import Claim, Queue, QueuedJob, QueueState
from autoslim.store.queued import RUNNING
from workers.service.executor import PENDING_REASON, Driver, DriverState, Executor
from workers.service.stop_request import StopRequest

_log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
"""Time between two rounds: how late a job starts at most while there is room."""
# Between rounds while the database or the cluster is down; doubled up to this. It delays every job when they are back.
_MAX_BACKOFF = 5.0
# A driver that cannot be started, or gets no node, for this long pauses its job: nodes of a cluster may be on their way until then.
_START_SECONDS = 60.0
# A job whose driver is pending stays paused for this long; the pause is renewed well before it ends, by the next supervisor, too.
_PAUSE_SECONDS = 60.0
_PAUSE_RENEWAL_SECONDS = 15.0
# From a driver's start until it must have adopted its job. Importing its packages from a cold disk takes long.
_ADOPT_SECONDS = 300.0
# A driver reads a cancellation within 2 s and gives its search 30 s; one that has not ended by then does not work.
_CANCEL_SECONDS = 60.0
# More jobs than any installation runs at the same time.
_MAX_RUNNING = 10_000


@dataclasses.dataclass
class _Starting:
    """A claimed job whose driver has not adopted it yet.

    `since` is the monotonic time of the claim and, once `started`, of the driver's start; `failed` says that starting it has failed at
    least once.
    """

    claim: Claim
    since: float
    started: bool = False
    failed: bool = False

    @property
    def driver(self) -> Driver:
        return Driver(self.claim.id, self.claim.attempt)

    @property
    def elapsed(self) -> float:
        """Seconds since the claim and, once the driver was started, since then."""
        return time.monotonic() - self.since


class Supervisor:
    """Runs at most `max_drivers` at a time, one for each job. `lease_seconds` is the lease of a job until its driver adopts it.
    `beat` is called after each round.
    """

    def __init__(
        self,
        queue: Queue,
        executor: Executor,
        *,
        max_drivers: int,
        lease_seconds: float,
        round_seconds: float = ROUND_SECONDS,
        stop: StopRequest | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._queue, self._executor, self._max_drivers = queue, executor, max_drivers
        self._lease_seconds, self._round_seconds = lease_seconds, round_seconds
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._starting: dict[str, _Starting] = {}
        self._paused_at: dict[Driver, float] = {}
        self._cancelled_at: dict[str, float] = {}
        # An earlier supervisor may have ended while the cluster was away.
        self._was_unreachable = True
        self._stop, self._beat = stop or StopRequest(), beat

    def run(self) -> None:
        """Runs rounds until it is asked to stop, with growing pauses while the database or the cluster is down."""
        pause = self._round_seconds
        while not self._stop.requested:
            try:
                self.reconcile()
                pause = self._round_seconds
            except (UnavailableError, OSError) as error:
                pause = min(2 * pause, _MAX_BACKOFF)
                _log.warning("%s; next try in %g s", error, pause)
            # Also after a round that failed: another process would not reach the database either.
            self._beat()
            self._stop.sleep(pause)
        self._shut_down()

    def reconcile(self) -> None:
        """One round.

        Raises:
            UnavailableError: when the database or the cluster cannot be reached.
        """
        drivers = self._list_drivers()
        # Before their leases end: a job whose driver is pending has lost nothing.
        self._pause_pending(drivers)
        # Jobs whose lease has ended are queued again, so that this round can start them.
        self._queue.requeue_expired()
        unfinished = {job.id: job for job in self._queue.list(states=(*RUNNING, QueueState.PAUSED), limit=_MAX_RUNNING)}
        # Dead and unwanted drivers before new ones: each of them may free resources of a node.
        self._handle_dead(drivers, unfinished)
        self._stop_unwanted(drivers, unfinished)
        for starting in list(self._starting.values()):
            self._continue_start(starting, drivers)
        self._claim(drivers)

    def _list_drivers(self) -> dict[Driver, DriverState]:
        """Where the cluster cannot be reached, all jobs that have a driver or wait for one say so before the error is raised."""
        try:
            drivers = self._executor.list_drivers()
        except UnavailableError:
            reason = self._executor.unreachable_reason
            for starting in list(self._starting.values()):
                # If their leases just ended, they would count as lost, and a job that is lost too often fails. A driver that was
                # started meanwhile may still adopt its job.
                self._release(starting, QueueState.PAUSED, reason)
            self._queue.requeue_expired()
            self._queue.set_reason_of_running(reason)
            self._was_unreachable = True
            raise
        if self._was_unreachable:
            self._queue.set_reason_of_running(None, instead_of=self._executor.unreachable_reason)
            self._was_unreachable = False
        return drivers

    def _pause_pending(self, drivers: dict[Driver, DriverState]) -> None:
        """Pauses the jobs whose drivers wait for a node, also those of an earlier supervisor, for as long as they wait."""
        self._paused_at = {driver: at for driver, at in self._paused_at.items() if drivers.get(driver) is DriverState.PENDING}
        for driver, state in drivers.items():
            starting = self._starting.get(driver.job_id)
            in_grace_period = starting is not None and starting.driver == driver and starting.elapsed < _START_SECONDS
            pause_is_due = time.monotonic() - self._paused_at.get(driver, -_PAUSE_RENEWAL_SECONDS) >= _PAUSE_RENEWAL_SECONDS
            if state is DriverState.PENDING and not in_grace_period and pause_is_due:
                self._paused_at[driver] = time.monotonic()
                self._pause(driver)

    def _pause(self, driver: Driver) -> None:
        self._queue.pause(driver.job_id, driver.attempt, PENDING_REASON, _PAUSE_SECONDS)
        starting = self._starting.get(driver.job_id)
        if starting is not None and starting.driver == driver:
            del self._starting[driver.job_id]

    def _handle_dead(self, drivers: dict[Driver, DriverState], unfinished: dict[str, QueuedJob]) -> None:
        """Requeues the jobs of drivers that died without writing an outcome, without waiting for their leases to end."""
        for driver, state in drivers.items():
            if state.alive:
                continue
            job, starting = unfinished.get(driver.job_id), self._starting.get(driver.job_id)
            # Of a time that the service has forgotten, since its database was restored: the start replaces it.
            namesake = starting is not None and starting.driver == driver and not starting.started
            if job is not None and job.state.running and job.attempt == driver.attempt and not namesake:
                if state is DriverState.NEVER_SCHEDULED:
                    self._pause(driver)
                else:
                    _log.warning("driver %s has died", driver.name, extra={"job_id": driver.job_id})
                    self._queue.expire_lease(driver.job_id, driver.attempt)
                    self._starting.pop(driver.job_id, None)
            self._executor.delete_record(driver)

    def _stop_unwanted(self, drivers: dict[Driver, DriverState], unfinished: dict[str, QueuedJob]) -> None:
        """Stops drivers whose job has ended or has a newer attempt, and those that do not obey a cancellation."""
        self._cancelled_at = {job_id: at for job_id, at in self._cancelled_at.items() if job_id in unfinished}
        for driver, state in drivers.items():
            job = unfinished.get(driver.job_id)
            if state.alive and (job is None or job.attempt != driver.attempt or self._overdue(job)):
                self._executor.stop(driver)

    def _overdue(self, job: QueuedJob) -> bool:
        """Whether the driver has had its time to obey a cancellation, counted from when this supervisor saw it: a wall clock may jump."""
        if job.cancel_requested_at is None:
            return False
        return time.monotonic() - self._cancelled_at.setdefault(job.id, time.monotonic()) > _CANCEL_SECONDS

    def _continue_start(self, starting: _Starting, drivers: dict[Driver, DriverState]) -> None:
        """Takes a claimed job one step further: cancelled, its driver started, or its start abandoned."""
        claim, pending = starting.claim, drivers.get(starting.driver) is DriverState.PENDING
        try:
            # The supervisor holds the lease until the driver adopts it, which changes the owner and ends this renewal.
            cancel = self._queue.renew(claim, self._lease_seconds)
            if cancel and (pending or not starting.started):
                self._queue.transition(claim, QueueState.CANCELLED)
            elif not starting.started:
                self._start(starting, drivers)
                return
            elif pending:
                self._queue.set_reason(claim, PENDING_REASON)
                return
            elif starting.elapsed > _ADOPT_SECONDS:
                _log.warning("driver %s has not adopted its job within %g s", starting.driver.name, _ADOPT_SECONDS)
                self._executor.stop(starting.driver)
                self._queue.expire_lease(claim.id, claim.attempt)
            else:
                return
        except LeaseLostError:
            _log.debug("job %s was adopted by its driver, or has ended", claim.id)
        self._starting.pop(claim.id, None)

    def _start(self, starting: _Starting, drivers: dict[Driver, DriverState]) -> None:
        """Starts the driver when those of earlier attempts are gone, so that two never write the same folder.

        An earlier driver that cannot be stopped within two leases has lost its own lease by then, and exits as soon as it notices.
        """
        # After a try the driver itself may be among them: the cluster has it, and the answer was lost.
        itself = starting.driver if starting.failed else None
        earlier = [
            driver for driver, state in drivers.items() if state.alive and driver.job_id == starting.claim.id and driver != itself
        ]
        if earlier and starting.elapsed < 2 * self._lease_seconds:
            for driver in earlier:
                self._executor.stop(driver)
            self._queue.set_reason(starting.claim, "its earlier driver is being stopped")
            return
        try:
            self._executor.start(starting.driver)
        except (UnavailableError, OSError) as error:
            self._note_failed_start(starting, error)
            return
        starting.started, starting.since = True, time.monotonic()
        _log.info("driver %s was started", starting.driver.name, extra={"job_id": starting.claim.id})
        self._queue.set_reason(starting.claim, None)

    def _note_failed_start(self, starting: _Starting, error: Exception) -> None:
        # Logged once, since it is tried again every round.
        if not starting.failed:
            _log.warning("driver %s cannot be started yet: %s", starting.driver.name, error)
        starting.failed = True
        reason = "the disk is full" if is_disk_full(error) else self._executor.unreachable_reason
        if starting.elapsed > _START_SECONDS:
            self._release(starting, QueueState.PAUSED, reason)
        else:
            self._queue.set_reason(starting.claim, reason)

    def _release(self, starting: _Starting, state: QueueState, reason: str) -> None:
        """Ends the claim and puts the job into `state`."""
        self._starting.pop(starting.claim.id, None)
        try:
            self._queue.transition(starting.claim, state, reason=reason)
        except LeaseLostError:
            _log.debug("job %s was claimed by another supervisor meanwhile", starting.claim.id)

    def _claim(self, drivers: dict[Driver, DriverState]) -> None:
        """Claims queued jobs while there is room."""
        # Any living driver counts, also one whose job has ended or is another supervisor's.
        busy = {driver.job_id for driver, state in drivers.items() if state.alive} | self._starting.keys()
        while len(busy) < self._max_drivers and not self._stop.requested:
            claim = self._queue.claim(self._owner, self._lease_seconds)
            if claim is None:
                return
            busy.add(claim.id)
            starting = self._starting[claim.id] = _Starting(claim, time.monotonic())
            self._continue_start(starting, drivers)

    def _shut_down(self) -> None:
        try:
            for starting in list(self._starting.values()):
                if not starting.started:
                    self._release(starting, QueueState.QUEUED, "the supervisor was stopped")
        except UnavailableError as error:
            # The jobs are queued again when their leases end.
            _log.warning("%s; claimed jobs are queued again when their leases end", error)
        self._executor.close()
