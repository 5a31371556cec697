"""Token buckets, one for each client, in bounded memory."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable

_CLIENTS = 10_000


class RateLimit:
    """`burst` requests at once, `rate` a second in the long run. Belongs to one event loop."""

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def wait(self, client: str) -> int:
        """Takes one; whole seconds to wait where there is none left, else 0."""
        tokens, now = self._tokens(client), self._clock()
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        self._buckets.move_to_end(client)
        while len(self._buckets) > _CLIENTS:
            # The one that has not been seen for longest, whose bucket is the likeliest to be full again.
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - tokens) / self._rate))

    def is_empty(self, client: str) -> bool:
        """Without taking one."""
        return self._tokens(client) < 1

    def _tokens(self, client: str) -> float:
        tokens, then = self._buckets.get(client, (float(self._burst), 0.0))
        return min(float(self._burst), tokens + (self._clock() - then) * self._rate)
