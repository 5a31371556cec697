"""Bounds on connections: the number for an address and in all, and the time for a request's headers.

uvicorn has neither a time for headers nor a limit for an address. Its `limit_concurrency` answers 503 to complete requests while others
hold all connections with requests that never become complete.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import resource
import time
from typing import Any

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from autoslim.service.problems import problem_response
from autoslim.service.settings import RequestLimits

_log = logging.getLogger(__name__)

BACKLOG = 512
"""Connections that wait in the kernel to be accepted. The event loop empties this queue within milliseconds."""

# A connection has a descriptor, and a download or a dry run one more; the rest is for databases, logs and the listener.
_FILES_PER_CONNECTION, _OTHER_FILES = 2, 256
# Seconds between two warnings that the limits are reached: an attack must not fill the log.
_WARN_SECONDS = 60.0


class ConnectionTable(ServerState):
    """uvicorn's state of a server, with the connections by address and those that wait for a request.

    Where a limit is reached, a new connection takes the place of the one that has waited longest for a request. A client sends its headers
    and its body within milliseconds, so that connections without a whole request, however many, keep nobody out. A new one is refused
    only when all others have a request that is being answered.
    """

    def __init__(self, limits: RequestLimits) -> None:
        super().__init__()
        self.header_seconds = limits.header_seconds
        self._total, self._per_address = limits.connections, min(limits.connections, limits.connections_per_address)
        self._open: collections.Counter[str] = collections.Counter()
        # By address, in the order in which they began to wait; a dictionary is an ordered set here.
        self._waiting: dict[str, dict[BoundedProtocol, float]] = {}
        self._warned = -_WARN_SECONDS

    def admit(self, connection: BoundedProtocol) -> bool:
        """Counts a new connection, and closes another where there are too many. False where none can be closed."""
        address = connection.address
        self._open[address] += 1
        if self._open[address] > self._per_address and not self._evict(address):
            return False
        return self._open.total() <= self._total or self._evict(None)

    def wait(self, connection: BoundedProtocol) -> None:
        """From now on, or from the earlier call on, the connection may be closed in favour of another."""
        self._waiting.setdefault(connection.address, {}).setdefault(connection, time.monotonic())

    def work(self, connection: BoundedProtocol) -> None:
        """The connection has a whole request."""
        waiting = self._waiting.get(connection.address, {})
        waiting.pop(connection, None)
        if not waiting:
            self._waiting.pop(connection.address, None)

    def leave(self, connection: BoundedProtocol) -> None:
        """Does nothing for a connection that has left already."""
        if connection.counted:
            connection.counted = False
            self.work(connection)
            self._open[connection.address] -= 1
            if not self._open[connection.address]:
                del self._open[connection.address]

    def _evict(self, address: str | None) -> bool:
        """Closes the connection that waits longest, of this address or of all."""
        queues = list(self._waiting.values()) if address is None else [self._waiting.get(address, {})]
        self._warn(address)
        # The first of each queue is its oldest.
        longest = min((next(iter(queue.items())) for queue in queues if queue), key=lambda found: found[1], default=None)
        if longest is None:
            return False
        longest[0].close()
        return True

    def _warn(self, address: str | None) -> None:
        if (now := time.monotonic()) - self._warned >= _WARN_SECONDS:
            self._warned = now
            _log.warning("too many connections; those without a whole request are closed", extra={"address": address or "all"})


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol for a server whose state is a `ConnectionTable`."""

    server_state: ConnectionTable

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.address, self.counted = "unknown", True
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            self.address = self.client[0]
        if self.server_state.admit(self):
            self._expect_headers()
            self.server_state.wait(self)
        else:
            self._refuse(503, "too-many-connections", "too many connections are open; try again later", {"Retry-After": "5"})

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_deadline()
        self.server_state.leave(self)

    def data_received(self, data: bytes) -> None:
        # asyncio may deliver what it had read before the connection was closed.
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._note_progress(began=True)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # uvicorn's keep-alive timer runs from here, unless the beginning of the next request is here already.
        self._note_progress(began=bool(self.conn.trailing_data[0]))

    def close(self) -> None:
        """Of a connection that waits for a request, or for the rest of one."""
        self.server_state.leave(self)
        self._forget_deadline()
        self.transport.close()

    def _note_progress(self, *, began: bool) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_deadline()
            # Until its body is there, a request is only half sent, and what reads the body has a time for it.
            (self.server_state.wait if self.cycle.more_body else self.server_state.work)(self)
            return
        # Not restarted by further bytes: one byte a second must not keep the connection. The rest of a body whose request was answered
        # early counts as a request that has begun, too.
        if began:
            self._expect_headers()
        self.server_state.wait(self)

    def _expect_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.server_state.header_seconds, self._time_out)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _time_out(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            detail = f"the headers did not arrive within {self.server_state.header_seconds:g} seconds"
            self._refuse(408, "request-timeout", detail, {})
        else:
            self.close()

    def _refuse(self, status: int, code: str, detail: str, headers: dict[str, str]) -> None:
        """There is no request, so that the answer is written here and not by the app."""
        response: Response = problem_response(None, status, code, detail, headers={"Connection": "close", **headers})
        head = h11.Response(status_code=status, headers=list(response.raw_headers))
        for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.close()


def fit_open_files(limits: RequestLimits) -> RequestLimits:
    """Raises the process's limit of open files to what the connections need; where it cannot, lowers the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limits.connections * _FILES_PER_CONNECTION + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return limits
    allowed = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return limits
    connections = max(1, (allowed - _OTHER_FILES) // _FILES_PER_CONNECTION)
    _log.warning(
        "the limit of open files allows for fewer connections", extra={"connections": connections, "open_files": allowed}
    )
    return limits.model_copy(update={"connections": connections})
