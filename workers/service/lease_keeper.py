"""`LeaseKeeper`: renews a driver's lease, passes a cancellation on, and ends the driver when it has lost the lease."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from autoslim.errors import LeaseLostError, UnavailableError
from autoslim.store import Claim, Queue, QueueState

_log = logging.getLogger(__name__)

# Seconds between renewals at most, since a renewal also reads whether the job is to be cancelled.
_POLL_SECONDS = 2.0
# For the reason of an exit to be logged: a disk or a pipe that hangs must not keep the process alive past its lease.
_LOG_SECONDS = 1.0
CANCEL_GRACE = 30.0
"""Seconds for a cancelled search to write its checkpoints; after that the driver exits without it."""


class LeaseKeeper:
    """Two threads of the driver: one renews the lease and may wait for the database for as long as that takes; the other one waits for
    nothing but the end of the lease, and ends the process then. `cancelled` is true when a cancellation was requested.

    `exit_process` ends the process at once, without cleaning up: a driver that has lost its lease must not write anything any more.
    """

    def __init__(
        self, queue: Queue, claim: Claim, lease_seconds: float, *, exit_process: Callable[[int], object] = os._exit
    ) -> None:
        self._queue, self._claim, self._lease_seconds, self._exit_process = queue, claim, lease_seconds, exit_process
        # On the monotonic clock. No other driver may have the job before.
        self._held_until = 0.0
        self._stop, self._closed = threading.Event(), threading.Event()
        self.cancelled = False
        self._thread = threading.Thread(target=self._run, name="autoslim-lease", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="autoslim-lease-end", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._held_until = time.monotonic() + self._lease_seconds
        self._watchdog.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop.set()
        # A renewal may be on its way and never be answered: the watchdog ends that wait, too.
        self._thread.join()
        self._closed.set()
        self._watchdog.join()

    def _watch(self) -> None:
        while (left := self._held_until - time.monotonic()) > 0:
            if self._closed.wait(left):
                return
        self.abandon("the lease ran out: the database has not renewed it in time")

    def _run(self) -> None:
        cancelled_at: float | None = None
        # At least four renewals per lease: three may fail before it is lost.
        while not self._stop.wait(min(_POLL_SECONDS, self._lease_seconds / 4)):
            # From before the request: the database may have counted from any moment until its answer.
            started = time.monotonic()
            try:
                cancel = self._queue.renew(self._claim, self._lease_seconds)
                self._held_until = started + self._lease_seconds
            except LeaseLostError as error:
                # The driver gave the job back itself while this renewal was on its way.
                if not self._stop.is_set():
                    self.abandon(str(error))
                return
            except UnavailableError as error:
                # No other driver may take the job before the lease ends, so that the search can continue until then.
                _log.warning("the lease could not be renewed: %s", error)
                cancel = False
            if cancel and cancelled_at is None:
                self.cancelled, cancelled_at = True, time.monotonic()
                _log.warning("cancellation was requested")
                # As Ctrl-C does, so that the search ends in order.
                os.kill(os.getpid(), signal.SIGTERM)
            if cancelled_at is not None and time.monotonic() - cancelled_at > CANCEL_GRACE:
                self._exit_cancelled()
                return

    def abandon(self, reason: str) -> None:
        """Exits at once: another driver may have the job."""
        telling = threading.Thread(target=_log.error, args=("%s; this driver exits", reason), daemon=True)
        telling.start()
        telling.join(_LOG_SECONDS)
        self._exit_process(1)

    def _exit_cancelled(self) -> None:
        _log.error("the search did not end within %g s of its cancellation; this driver exits", CANCEL_GRACE)
        try:
            self._queue.transition(self._claim, QueueState.CANCELLED)
        except (UnavailableError, LeaseLostError) as error:
            # The supervisor cancels the job when the lease has ended.
            _log.error("the cancellation could not be written: %s", error)
        self._exit_process(1)
