"""Ctrl-C and SIGTERM end a search in order: what runs keeps its checkpoint and is gone on with later."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupt:
    """Within it the first signal raises KeyboardInterrupt, at once or, inside `by_signal`, when that loop has wound up.

    A second signal raises at once wherever it comes. Off the main thread, where Python sets no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self._seen = False
        self._relay: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        # Tune would install a handler of its own for SIGINT and never take it back.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def by_signal(self, relay: int) -> Iterator[None]:
        """`relay` is what the loop inside understands as a request to wind up (SIGUSR1 for Ray Tune)."""
        self._relay = relay
        try:
            yield
        finally:
            self._relay = None
        if self._seen:
            raise KeyboardInterrupt

    def _stop(self, number: int, frame: FrameType | None) -> None:
        again, self._seen = self._seen, True
        if again or self._relay is None:
            raise KeyboardInterrupt
        os.kill(os.getpid(), self._relay)
