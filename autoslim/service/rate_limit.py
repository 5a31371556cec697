"""A token bucket per client, in bounded memory."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable

# A few hundred bytes each, so a few MB at most, however many addresses send requests.
_MAX_CLIENTS = 10_000


class RateLimit:
    """`burst` requests at once, `rate` requests per second in the long run. Belongs to one event loop."""

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        # By client: the tokens left and the time of that count. The least recently used bucket is first.
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def acquire(self, client: str) -> int:
        """Takes a token. Returns 0, or the whole seconds until there is one."""
        tokens, now = self._tokens(client), self._clock()
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        self._buckets.move_to_end(client)
        while len(self._buckets) > _MAX_CLIENTS:
            # The least recently used bucket is the likeliest to be full, and a full bucket is the same as none.
            self._buckets.popitem(last=False)
        # Rounded up: a client that waits exactly as long as it is told must succeed.
        return 0 if allowed else max(1, math.ceil((1 - tokens) / self._rate))

    def _tokens(self, client: str) -> float:
        # Refilled on reading, so that no timer runs for idle clients.
        tokens, then = self._buckets.get(client, (float(self._burst), 0.0))
        return min(float(self._burst), tokens + (self._clock() - then) * self._rate)
