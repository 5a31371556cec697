"""What the routes share: the store, the catalog, the dry_runner, the event streams."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request

from autoslim.service.background import Background
from autoslim.service.catalog import Catalog
from autoslim.service.dry_run.dry_runner import DryRunner
from autoslim.service.event_stream import EventBroadcaster
from autoslim.service.metrics import RequestMetrics
from autoslim.service.public_text import PublicText
from autoslim.service.rate_limit import RateLimit
from autoslim.service.settings import ServiceSettings
from autoslim.service.stored_specs import StoredSpecs
from autoslim.store import Keys, Queue, Store

P = ParamSpec("P")
T = TypeVar("T")

# Database calls run in threads. More threads than this only wait for the interpreter's lock.
_THREADS = 8
# Failed logins per client address: 30 at once, one a second after that. A key has 256 random bits, so this only keeps the log readable.
_FAILED_LOGINS_PER_SECOND, _FAILED_LOGIN_BURST = 1.0, 30


class AppState:
    """Opened once per app, when it starts; belongs to one event loop."""

    def __init__(self, settings: ServiceSettings, metrics: RequestMetrics) -> None:
        """Raises RequestError or UnavailableError when the store cannot be opened."""
        self.settings, self.metrics, limits = settings, metrics, settings.limits
        self.catalog, self.public_text = Catalog(settings), PublicText(settings)
        self.queue, self.keys, self.store = Queue(settings.storage), Keys(settings.storage), Store(settings.storage)
        self.stored_specs = StoredSpecs()
        self.dry_runner = DryRunner(limits)
        self.background = Background()
        self.late_jobs: set[str] = set()
        """Queued jobs whose plans are being made."""
        self.events = EventBroadcaster(self.queue, self.run_sync, max_streams=limits.streams)
        self.request_rate = RateLimit(limits.requests_per_second, limits.burst)
        self.failed_login_rate = RateLimit(_FAILED_LOGINS_PER_SECOND, _FAILED_LOGIN_BURST)
        self._threads: anyio.CapacityLimiter | None = None

    async def run_sync(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a blocking function in a thread, so that it does not block the event loop."""
        if self._threads is None:
            # Created here because a limiter binds to the running event loop.
            self._threads = anyio.CapacityLimiter(_THREADS)
        return await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs), limiter=self._threads)

    async def close(self) -> None:
        await self.events.close()
        await self.background.close()
        await self.dry_runner.close()
        for resource in (self.queue, self.keys, self.store):
            resource.close()


async def get_state(request: Request) -> AppState:
    """Async although it awaits nothing: FastAPI would run a plain function in a thread at every request."""
    state: AppState = request.app.state.autoslim
    return state


State = Annotated[AppState, Depends(get_state)]
