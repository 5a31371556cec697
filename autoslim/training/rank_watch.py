"""`RankWatch`: ends the process of rank 0 where another rank has ended, and this one does not notice.

Gloo fails at once where a rank is lost. NCCL waits for it, in a kernel that no exception ends, as anything else in a step may wait.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence

_LOOK_SECONDS = 1.0
"""Between two looks at the ranks."""
_NOTICE_SECONDS = 10.0
"""For rank 0 to notice by itself that a rank has ended, after which it has the rank's own error, where there is one."""


def how_ended(code: int) -> str:
    """What an exit code of a process says, in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has ended with exit code {code}"


class RankWatch:
    """`others` gives the processes of ranks 1, 2, ...; `end` gets the reason in words, and ends this process.

    `clock` is in seconds.
    """

    def __init__(
        self,
        others: Callable[[], Sequence[subprocess.Popen[bytes]]],
        *,
        end: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._others, self._end, self._clock = others, end, clock
        self._pauses = False
        self._since: float | None = None

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Inside, this rank works with the others."""
        left = threading.Event()
        self._since = None
        thread = threading.Thread(target=self._watch, args=(left,), name="autoslim-rank-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            left.set()
            thread.join()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, this rank does something without the others that is not to be lost; it notices afterwards that one has ended."""
        self._pauses = True
        try:
            yield
        finally:
            self._pauses = False

    def look(self) -> None:
        """Ends the other ranks and this process, where one has ended for some time."""
        others = self._others()
        ended = [(rank, code) for rank, process in enumerate(others, 1) if (code := process.poll()) is not None]
        if not ended or self._pauses:
            self._since = None
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        if now - self._since < _NOTICE_SECONDS:
            return
        for process in others:
            process.kill()
        # One that ended because another one was lost has an exit code; one that was killed has a signal.
        rank, code = min(ended, key=lambda pair: pair[1])
        self._end(f"rank {rank} of {len(others) + 1} {how_ended(code)}, and rank 0 waits for it")

    def _watch(self, left: threading.Event) -> None:
        while not left.wait(_LOOK_SECONDS):
            self.look()
