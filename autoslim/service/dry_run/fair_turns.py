"""`FairTurns`: who may use the planner next. Tenants take turns, so that one with many requests does not hold up one with few."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
import time
from collections.abc import AsyncIterator

from autoslim.service.dry_run.errors import PlanQueueFullError

# Seconds. A client that is told to come back waits between these.
_SHORTEST_WAIT, _LONGEST_WAIT = 1, 60
# The weight of the last turn in the mean length of a turn.
_LAST_WEIGHT = 0.2


class FairTurns:
    """`at_once` turns at a time; a tenant has at most `queue` turns, those that wait included. Belongs to one event loop.

    With two turns or more at a time, a tenant has one less than all of them: one is always left to the others.
    """

    def __init__(self, *, at_once: int, queue: int) -> None:
        self._at_once, self._queue, self._share = at_once, queue, max(1, at_once - 1)
        self._running: collections.Counter[str] = collections.Counter()
        # The tenant whose turn is next comes first; nobody is here without a request that waits.
        self._waiting: dict[str, collections.deque[asyncio.Future[None]]] = {}
        self._mean_seconds = 1.0

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Waits for a turn.

        Raises:
            PlanQueueFullError: at once, when the tenant has as many as it may.
        """
        await self._wait(tenant)
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean_seconds += _LAST_WEIGHT * (time.monotonic() - began - self._mean_seconds)
            self._end(tenant)

    async def _wait(self, tenant: str) -> None:
        count = self._running[tenant] + len(self._waiting.get(tenant, ()))
        if count >= self._queue:
            seconds = math.ceil(self._mean_seconds * count / self._share)
            raise PlanQueueFullError(
                f"{count} plans of this tenant are being made or wait, the maximum; repeat the request when one has ended",
                retry_after=min(max(seconds, _SHORTEST_WAIT), _LONGEST_WAIT),
            )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, collections.deque()).append(future)
        self._grant()
        try:
            await future
        except asyncio.CancelledError:
            self._give_up(tenant, future)
            raise

    def _grant(self) -> None:
        while self._running.total() < self._at_once:
            tenant = next((tenant for tenant in self._waiting if self._running[tenant] < self._share), None)
            if tenant is None:
                return
            queue = self._waiting.pop(tenant)
            queue.popleft().set_result(None)
            self._running[tenant] += 1
            if queue:
                # To the end of the round.
                self._waiting[tenant] = queue

    def _give_up(self, tenant: str, future: asyncio.Future[None]) -> None:
        if future.done() and not future.cancelled():
            # It was granted in the moment in which it was cancelled.
            self._end(tenant)
            return
        queue = self._waiting[tenant]
        queue.remove(future)
        if not queue:
            del self._waiting[tenant]

    def _end(self, tenant: str) -> None:
        self._running[tenant] -= 1
        # Counters keep zeros: tenants would pile up.
        self._running += collections.Counter()
        self._grant()
