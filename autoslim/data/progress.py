"""`Progress`: how far the preparation of images is, and how long the rest will take, in a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from autoslim.core.duration import format_duration

FIRST_SECONDS, SECONDS = 5.0, 10.0
"""Until the first line, so that small data sets are prepared without a word, and between lines."""


class Progress:
    """Counts images of `total`; `tell` gets the lines, and `clock` gives seconds that only rise."""

    def __init__(self, total: int, tell: Callable[[str], None] | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._tell, self._clock = total, tell, clock
        self._done, self._began = 0, clock()
        self._next = self._began + FIRST_SECONDS

    def advance(self) -> None:
        """One image more is prepared."""
        self._done += 1
        if self._tell is None or (now := self._clock()) < self._next:
            return
        self._next = now + SECONDS
        left = (now - self._began) / self._done * (self._total - self._done)
        self._tell(f"preparing images: {self._done:,} of {self._total:,}, about {format_duration(left)} left")
