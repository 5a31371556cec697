"""`Preparing`: the bar of images that are being prepared."""

from __future__ import annotations

import time
from collections.abc import Callable

from autoslim.progress.display import Display
from autoslim.progress.status import Bar, Status


class Preparing:
    """Called with how many images are prepared, and how many there are; `clock` gives seconds that only rise."""

    def __init__(self, display: Display, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._began = clock()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        ends_at = now + (now - self._began) / done * (total - done) if done else None
        bar = Bar(name="preparing images", done=done, total=total, facts=(f"{done:,} of {total:,}",))
        self._display.show(Status(running=(bar,), ends_at=ends_at))
