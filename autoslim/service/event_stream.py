"""`EventHub`: one reader of the event table for all streams of the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from autoslim.errors import AutoslimError
from autoslim.store import Event, Queue, QueueState

_log = logging.getLogger(__name__)

_PERIOD = 0.5
_PAGE = 500
_WAITING = 256
"""Events a slow reader may be behind; one that is further back reads on from the table."""
PING = 15.0
_REPLAYS = 8

Run = Callable[..., Awaitable[Any]]


class Subscription:
    """`missed` is true when there was no room for an event: what waits here is then not all there is."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event | None] = asyncio.Queue(_WAITING)
        self.missed = False

    def put(self, event: Event | None) -> None:
        try:
            self.events.put_nowait(event)
        except asyncio.QueueFull:
            self.missed = True

    def clear(self) -> None:
        """Before the table is read: all that waits here is there, too."""
        self.missed = False
        while not self.events.empty():
            self.events.get_nowait()


class EventHub:
    """Belongs to one event loop. `run` calls a function in a thread; `streams` is the most that may be followed at a time."""

    def __init__(self, queue: Queue, run: Run, *, streams: int, period: float = _PERIOD) -> None:
        self._queue, self._run, self._streams, self._period = queue, run, streams, period
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._open = 0
        self._reader: asyncio.Task[None] | None = None
        self._replaying = asyncio.Semaphore(_REPLAYS)
        self.closing = False

    @property
    def open(self) -> int:
        """Streams at this moment."""
        return self._open

    def take_place(self) -> bool:
        """Whether there is room for another stream; who got it has to `leave`."""
        if self._open >= self._streams or self.closing:
            return False
        self._open += 1
        return True

    def leave(self) -> None:
        self._open -= 1

    def end_streams(self) -> None:
        """Every stream ends as soon as it can; its client may come back with the last id it saw."""
        self.closing = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.put(None)

    async def close(self) -> None:
        self.end_streams()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    async def follow(self, job_id: str, *, after: int, ping: float = PING) -> AsyncIterator[Event | None]:
        """The job's events after this one, up to the one that ends it; None whenever nothing has come for `ping` seconds."""
        with self._subscribed(job_id) as subscription:
            while not self.closing:
                subscription.clear()
                # Asked before the table is read: a job that ends meanwhile has written events that this reading may miss.
                over = await self._is_over(job_id)
                async for event in self._replay(job_id, after):
                    after = event.seq
                    yield event
                    if ends(event):
                        return
                if over:
                    return
                while not subscription.missed and not self.closing:
                    try:
                        async with asyncio.timeout(ping):
                            found = await subscription.events.get()
                    except TimeoutError:
                        # The table is asked, too, in case nothing comes because the reader cannot read.
                        yield None
                        self._keep_reading()
                        break
                    # What the table gave already comes by the hub a second time.
                    if found is None or found.seq <= after:
                        continue
                    after = found.seq
                    yield found
                    if ends(found):
                        return

    async def _replay(self, job_id: str, after: int) -> AsyncIterator[Event]:
        while True:
            async with self._replaying:
                page: list[Event] = await self._run(self._queue.events, job_id, after=after, limit=_PAGE)
            for event in page:
                yield event
            if len(page) < _PAGE:
                return
            after = page[-1].seq

    async def _is_over(self, job_id: str) -> bool:
        """For a job that had ended before the stream began, and for one that was purged."""
        try:
            return bool((await self._run(self._queue.get, job_id)).state.ended)
        except AutoslimError:
            return True

    @contextlib.contextmanager
    def _subscribed(self, job_id: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self._subscriptions.setdefault(job_id, set()).add(subscription)
        self._keep_reading()
        try:
            yield subscription
        finally:
            self._subscriptions[job_id].discard(subscription)
            if not self._subscriptions[job_id]:
                del self._subscriptions[job_id]

    def _keep_reading(self) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """As long as anybody listens."""
        after: int | None = None
        while self._subscriptions and not self.closing:
            try:
                if after is None:
                    after = await self._run(self._queue.last_seq)
                    # What came between a stream's replay and this moment is in nobody's queue.
                    self._tell_missed()
                after = await self._pass_on(after)
            except AutoslimError as error:
                _log.warning("events cannot be read: %s", error)
            await asyncio.sleep(self._period)

    async def _pass_on(self, after: int) -> int:
        while True:
            page: list[Event] = await self._run(self._queue.events, None, after=after, limit=_PAGE)
            for event in page:
                for subscription in self._subscriptions.get(event.job_id, ()):
                    subscription.put(event)
                after = event.seq
            if len(page) < _PAGE:
                return after

    def _tell_missed(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.missed = True
                subscription.put(None)


def ends(event: Event) -> bool:
    """Whether this is a job's last event."""
    return event.type == "state" and QueueState(event.data["state"]).ended
