"""`Progress`: how far the preparation of images is, and how long the rest will take, in a line now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from autoslim.core.duration import format_duration

FIRST_SECONDS, SECONDS = 5.0, 10.0
"""Until the first line, so that small data sets are prepared without a word, and between lines."""
_LINES = 3
"""Of which the time that is left follows: what an earlier preparation had done already says little about the rest."""
_WATCH_SECONDS = 0.25
"""Between two calls of `watch`, which draws a bar."""

Watch = Callable[[int, int], None]
"""Gets how many images are prepared, and how many there are."""


class Progress:
    """Counts images of `total`; `tell` gets the lines, `watch` the numbers, and `clock` gives seconds that only rise."""

    def __init__(
        self,
        total: int,
        tell: Callable[[str], None] | None,
        watch: Watch | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._tell, self._watch, self._clock = total, tell, watch, clock
        self._done, began = 0, clock()
        self._next_line, self._next_watch = began + FIRST_SECONDS, began
        # When the last lines were told, and how many images were prepared then.
        self._told = deque([(began, 0)], maxlen=_LINES)

    def advance(self) -> None:
        """One image more is prepared."""
        self._done += 1
        if self._tell is None and self._watch is None:
            return
        now = self._clock()
        if self._watch is not None and now >= self._next_watch:
            self._next_watch = now + _WATCH_SECONDS
            self._watch(self._done, self._total)
        if self._tell is not None and now >= self._next_line:
            self._next_line = now + SECONDS
            then, done = self._told[0]
            left = (now - then) / (self._done - done) * (self._total - self._done)
            self._told.append((now, self._done))
            self._tell(f"preparing images: {self._done:,} of {self._total:,}, about {format_duration(left)} left")
