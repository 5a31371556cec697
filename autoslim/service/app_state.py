"""What the routes share: the store, the catalog, the planner, the event hub."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from autoslim.service.catalog import Catalog
from autoslim.service.event_stream import EventHub
from autoslim.service.metrics import RequestMetrics
from autoslim.service.planning.client import Planner
from autoslim.service.rate_limit import RateLimit
from autoslim.service.settings import ServiceSettings
from autoslim.store import Keys, Queue, Store

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8
"""The database is asked in threads; more of them would only wait for the interpreter's lock."""


class AppState:
    """Opened once for an app; belongs to one event loop."""

    def __init__(self, settings: ServiceSettings, metrics: RequestMetrics) -> None:
        """Raises RequestError or ClusterError when the store cannot be opened."""
        self.settings, self.metrics, limits = settings, metrics, settings.limits
        self.catalog = Catalog(settings)
        self.queue, self.keys, self.store = Queue(settings.storage), Keys(settings.storage), Store(settings.storage)
        self.planner = Planner(limits)
        self.hub = EventHub(self.queue, self.run, streams=limits.streams)
        self.rate = RateLimit(limits.requests_per_second, limits.burst)
        self.refusals = RateLimit(1.0, 30)
        self._threads: anyio.CapacityLimiter | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In a thread; what blocks must not hold up the event loop."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(_THREADS)
        return await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs), limiter=self._threads)

    async def close(self) -> None:
        await self.hub.close()
        await self.planner.close()
        for part in (self.queue, self.keys, self.store):
            part.close()


async def services(request: Request) -> AppState:
    """The dependency by which a route gets at them. Not a plain function: FastAPI would run it in a thread, at every request."""
    found: AppState = request.app.state.services
    return found
