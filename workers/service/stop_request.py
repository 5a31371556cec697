"""`StopRequest`: the supervisor is asked to end, by a signal or because the process that started it is gone."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType

_log = logging.getLogger(__name__)

# Longer than a supervisor takes to end all its drivers (`STOP_GRACE` and a moment); one that hangs in a library ends then.
_HANGING_SECONDS = 60.0
# A signal does not wake `time.sleep`: Python resumes it after the handler has run.
_STEP_SECONDS = 0.2


class StopRequest:
    """A plain attribute and not a `threading.Event`, whose lock a signal's handler may find taken by the code that it interrupted."""

    def __init__(self) -> None:
        self.requested = False

    def on_signals(self) -> None:
        """SIGINT and SIGTERM request it from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def on_end_of(self, descriptor: int) -> None:
        """The end of this stream requests it: a pipe ends with the process that holds its other end, however that process ends."""
        threading.Thread(target=self._watch, args=(descriptor,), name="autoslim-parent", daemon=True).start()

    def sleep(self, seconds: float) -> None:
        """Until then, or until it is requested."""
        until = time.monotonic() + seconds
        while not self.requested and time.monotonic() < until:
            time.sleep(min(_STEP_SECONDS, seconds))

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def _watch(self, descriptor: int) -> None:
        while os.read(descriptor, 4096):
            pass
        _log.warning("the process that started this one is gone; this one ends, too")
        # A signal, because it also ends a wait in the main thread.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_HANGING_SECONDS)
        os._exit(1)
