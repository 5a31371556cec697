"""`EventBroadcaster`: one reader of the event table for all event streams of the process.

The table is the truth. A stream first replays the table, then waits for what the reader broadcasts. The queue between them is bounded:
a client that reads too slowly loses no event, because its stream replays the table again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from autoslim.errors import AutoslimError
from autoslim.store import Event, Queue, QueueState

_log = logging.getLogger(__name__)

# Seconds between two reads of the table: the delay that a follower sees, for two small queries per second in all.
_POLL_SECONDS = 0.5
# Events per query; bounds the memory of a replay.
_PAGE_SIZE = 500
# Events that wait for one slow client before its stream replays the table; bounds the memory of a stream.
_QUEUE_SIZE = 256
# Streams that read the table at the same time. After a restart all clients reconnect at once.
_CONCURRENT_REPLAYS = 8
KEEPALIVE_SECONDS = 15.0
"""Time without an event after which a stream sends a comment. The client gives up after three of them are missing."""

RunSync = Callable[..., Awaitable[Any]]


class Subscription:
    """One stream's queue. `overflowed` means that an event did not fit, so that the stream has to replay the table."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event | None] = asyncio.Queue(_QUEUE_SIZE)
        self.overflowed = False

    def put(self, event: Event | None) -> None:
        """None wakes the stream up without an event."""
        try:
            self.events.put_nowait(event)
        except asyncio.QueueFull:
            self.overflowed = True

    def clear(self) -> None:
        """Called before a replay, which reads everything that waits here."""
        self.overflowed = False
        while not self.events.empty():
            self.events.get_nowait()


class EventBroadcaster:
    """Belongs to one event loop. `run_sync` calls a function in a thread; at most `max_streams` streams are open."""

    def __init__(self, queue: Queue, run_sync: RunSync, *, max_streams: int, poll_seconds: float = _POLL_SECONDS) -> None:
        self._queue, self._run_sync, self._max_streams, self._poll_seconds = queue, run_sync, max_streams, poll_seconds
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._open_streams = 0
        self._reader: asyncio.Task[None] | None = None
        self._replays = asyncio.Semaphore(_CONCURRENT_REPLAYS)
        self.closing = False

    @property
    def open_streams(self) -> int:
        return self._open_streams

    def try_acquire(self) -> bool:
        """Reserves a stream; False where all are taken. A True has to be followed by one `release`."""
        if self._open_streams >= self._max_streams or self.closing:
            return False
        self._open_streams += 1
        return True

    def release(self) -> None:
        self._open_streams -= 1

    def end_streams(self) -> None:
        """Ends every stream; clients reconnect with the id of the last event that they received."""
        self.closing = True
        self._wake_all()

    async def close(self) -> None:
        self.end_streams()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    async def follow(self, job_id: str, *, after: int, keepalive: float = KEEPALIVE_SECONDS) -> AsyncIterator[Event | None]:
        """The job's events with a `seq` above `after`, up to the one that ends the job.

        Yields None after `keepalive` seconds without an event.
        """
        with self._subscribe(job_id) as subscription:
            while not self.closing:
                # Subscribed before the table is read: an event that is written in between arrives twice and never not at all.
                subscription.clear()
                # Read before the events: the events of a job that ends in between may be missed by this replay.
                ended = await self._has_ended(job_id)
                async for event in self._replay(job_id, after):
                    after = event.seq
                    yield event
                    if ends_job(event):
                        return
                if ended:
                    return
                while not subscription.overflowed and not self.closing:
                    try:
                        async with asyncio.timeout(keepalive):
                            found = await subscription.events.get()
                    except TimeoutError:
                        yield None
                        # Replays as well: nothing may have come because the reader has stopped.
                        self._ensure_reader()
                        break
                    # The replay has already yielded it, or the queue was only woken up.
                    if found is None or found.seq <= after:
                        continue
                    after = found.seq
                    yield found
                    if ends_job(found):
                        return

    async def _replay(self, job_id: str, after: int) -> AsyncIterator[Event]:
        while True:
            # Held for a page and not for the replay, so that a client that reads slowly blocks no other.
            async with self._replays:
                page: list[Event] = await self._run_sync(self._queue.events, job_id, after=after, limit=_PAGE_SIZE)
            for event in page:
                yield event
            if len(page) < _PAGE_SIZE:
                return
            after = page[-1].seq

    async def _has_ended(self, job_id: str) -> bool:
        """Also True for a job that was purged."""
        try:
            return bool((await self._run_sync(self._queue.get, job_id)).state.ended)
        except AutoslimError:
            return True

    @contextlib.contextmanager
    def _subscribe(self, job_id: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self._subscriptions.setdefault(job_id, set()).add(subscription)
        self._ensure_reader()
        try:
            yield subscription
        finally:
            self._subscriptions[job_id].discard(subscription)
            if not self._subscriptions[job_id]:
                del self._subscriptions[job_id]

    def _ensure_reader(self) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Polls the table while there are subscriptions; an idle service makes no queries."""
        after: int | None = None
        while self._subscriptions and not self.closing:
            try:
                if after is None:
                    after = await self._run_sync(self._queue.last_seq)
                    # Events between a stream's replay and this moment are in no queue.
                    self._request_replays()
                after = await self._broadcast(after)
            except AutoslimError as error:
                # Streams stay open with keep-alives until the store answers again.
                _log.warning("events cannot be read: %s", error)
            await asyncio.sleep(self._poll_seconds)

    async def _broadcast(self, after: int) -> int:
        """Passes on all events above `after`; returns the last `seq`."""
        while True:
            page: list[Event] = await self._run_sync(self._queue.events, None, after=after, limit=_PAGE_SIZE)
            for event in page:
                for subscription in self._subscriptions.get(event.job_id, ()):
                    subscription.put(event)
                after = event.seq
            if len(page) < _PAGE_SIZE:
                return after

    def _request_replays(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.overflowed = True
        self._wake_all()

    def _wake_all(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.put(None)


def ends_job(event: Event) -> bool:
    """Whether this is a job's last event."""
    return event.type == "state" and QueueState(event.data["state"]).ended
