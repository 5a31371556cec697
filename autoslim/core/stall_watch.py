"""`StallWatch`: ends a process whose work hangs, such as in a network file system, a driver, or a lock that nobody releases.

Nothing else ends such a wait. Who has started the process sees that it has ended, and does its work again in another one.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from autoslim.core.activity import idle_seconds, mark

_LOOK_SECONDS = 5.0
"""Between two looks at the work."""

_SPARE_SECONDS = 60.0
"""For the thread that watches to come back, and for the end of the process. What hangs may hold the interpreter or the log, or be the file
system that the reason is left on: then a thread of faulthandler's own, which needs none of them, ends the process."""

_MOST_SECONDS = 1e8
"""Three years: what stands for a longer limit where faulthandler is told one. It takes at most some three hundred years."""

_TIMEOUT = re.compile(r"^Timeout \(.*\)!$", re.MULTILINE)
"""What faulthandler's thread writes above the stacks; it ends the process with 1, as an error would."""

_STDERR = 2
"""As a descriptor: Python's own stream has a lock, which a thread that hangs may have."""

_log = logging.getLogger(__name__)


def end_process(reason: str, *, leave: Callable[[str], object] = lambda reason: None) -> None:
    """Ends this process at once with the exit code `EX_TEMPFAIL`, after a line in the log and the stacks of all threads on stderr. `leave`
    gets the reason, too, for who has started the process."""
    try:
        # There may be no memory for its thread.
        with contextlib.suppress(MemoryError, RuntimeError):
            faulthandler.dump_traceback_later(_SPARE_SECONDS, file=_STDERR, exit=True)
        _log.critical("%s; this process ends, and the stacks of its threads are on stderr", reason)
    finally:
        # Also where there is no memory left for the line. The stacks need none.
        try:
            faulthandler.dump_traceback(file=_STDERR, all_threads=True)
            leave(reason)
        except Exception:  # noqa: BLE001 - the process ends in any case
            _log.exception("the reason cannot be left for the search")
        finally:
            os._exit(os.EX_TEMPFAIL)


def has_stalled(run: subprocess.CompletedProcess[str]) -> bool:
    """Whether a child, whose stderr was captured, was ended by its StallWatch."""
    return run.returncode == os.EX_TEMPFAIL or (run.returncode == 1 and _TIMEOUT.search(run.stderr) is not None)


class StallWatch:
    """Inside `working` the process ends when its work has made no mark (`activity`) for more than `limit` seconds; 0 is no limit.

    `end`, by default `end_process`, gets the reason in words; `idle` gives the seconds since the last mark.
    """

    def __init__(
        self, limit: float, *, idle: Callable[[], float] = idle_seconds, end: Callable[[str], object] = end_process
    ) -> None:
        self._limit, self._idle, self._end = limit, idle, end
        self._works = self._stopped = False

    def start(self) -> StallWatch:
        """Begins to look, in a thread that is made here, while there is memory for one."""
        if self._limit:
            threading.Thread(target=self._watch, name="autoslim-stall-watch", daemon=True).start()
        return self

    def stop(self) -> None:
        self._stopped = True

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """The process has work. Between two pieces of it, it waits for the next one as long as that takes."""
        mark()
        self._works = True
        try:
            yield
        finally:
            self._works = False

    def look(self) -> None:
        """Ends the process if its work hangs."""
        idle = self._idle()
        if self._works and 0 < self._limit < idle:
            self._end(
                f"stalled: no step, batch or other sign of life for {idle / 60:.1f} minutes (--stall-minutes {self._limit / 60:g})"
            )

    def _watch(self) -> None:
        every = min(_LOOK_SECONDS, self._limit / 4)
        while not self._stopped:
            # Not the wait of an Event, which makes a lock each time: the process may have no memory left.
            time.sleep(every)
            try:
                self.look()
                # Ends the process unless it is put off in time.
                faulthandler.dump_traceback_later(min(self._limit, _MOST_SECONDS) + _SPARE_SECONDS, file=_STDERR, exit=True)
            except (MemoryError, RuntimeError):
                # No memory for an object, or for faulthandler's thread: at the next look there may be.
                continue
        faulthandler.cancel_dump_traceback_later()
