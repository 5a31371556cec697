"""Ctrl-C and SIGTERM end a search in order: running trials keep their checkpoints, and `--resume` continues them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class GracefulShutdown:
    """A context in which SIGINT and SIGTERM raise KeyboardInterrupt: at once, or within `forwarded_as` when the loop inside has ended.

    A second signal always raises at once. Outside the main thread, where Python cannot set handlers, the context has no effect.
    """

    def __init__(self) -> None:
        self._requested = False
        self._forward_as: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> GracefulShutdown:
        # Tune would otherwise install its own handler for SIGINT and never restore this one.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def forwarded_as(self, number: int) -> Iterator[None]:
        """Inside, the first signal is passed on as `number`, which the loop inside takes as a request to end (SIGUSR1 for Ray Tune)."""
        self._forward_as = number
        try:
            yield
        finally:
            self._forward_as = None
        if self._requested:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._requested = self._requested, True
        if again or self._forward_as is None:
            raise KeyboardInterrupt
        os.kill(os.getpid(), self._forward_as)
