"""Keeps a driver's lease, hears of cancellations, and ends the driver when the job is another's."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from autoslim.errors import ClusterError, LeaseLostError
from autoslim.store import Claim, Queue, QueueState

_log = logging.getLogger(__name__)

_LOOK_EVERY = 2.0
"""Seconds between two looks at whether the job is to be cancelled."""
GRACE = 30.0
"""Seconds for a search to write its checkpoints and end; after that the driver ends without it."""


class LeaseKeeper:
    """A thread of the driver's. `cancelled` says whether a cancellation was heard of.

    `leave` ends the process at once, whatever it is at: a driver that has lost its lease must not write anything any more.
    """

    def __init__(self, queue: Queue, claim: Claim, lease_seconds: float, *, leave: Callable[[int], object] = os._exit) -> None:
        self._queue, self._claim, self._lease, self._leave = queue, claim, lease_seconds, leave
        self._stop = threading.Event()
        self.cancelled = False
        self._thread = threading.Thread(target=self._run, name="autoslim-lease", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        held_until = time.monotonic() + self._lease
        asked: float | None = None
        while not self._stop.wait(min(_LOOK_EVERY, self._lease / 4)):
            began = time.monotonic()
            try:
                cancel = self._queue.renew(self._claim, self._lease)
                held_until = began + self._lease
            except LeaseLostError as error:
                if not self._stop.is_set():
                    self.abandon(str(error))
                return
            except ClusterError as error:
                # As long as the lease holds, nobody else may take the job.
                _log.warning("the lease could not be prolonged: %s", error)
                cancel = False
                if time.monotonic() > held_until:
                    self.abandon("the lease ran out while the database was down")
                    return
            if cancel and asked is None:
                self.cancelled, asked = True, time.monotonic()
                _log.warning("the job is to be cancelled")
                os.kill(os.getpid(), signal.SIGTERM)
            if asked is not None and time.monotonic() - asked > GRACE:
                self._cut_off()
                return

    def abandon(self, reason: str) -> None:
        """Ends the process at once: another driver may have the job."""
        _log.error("%s; this driver ends", reason)
        self._leave(1)

    def _cut_off(self) -> None:
        _log.error("the search did not end within %g s of its cancellation; this driver ends", GRACE)
        try:
            self._queue.advance(self._claim, QueueState.CANCELLED)
        except (ClusterError, LeaseLostError) as error:
            # Whoever reaps the job then cancels it.
            _log.error("the cancellation could not be written down: %s", error)
        self._leave(1)
