"""`serve`: runs the service on a port; beyond loopback only closed, unless the operator says otherwise."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence

import uvicorn
from fastapi import FastAPI

from autoslim.core.logs import log_json
from autoslim.core.urls import is_loopback
from autoslim.errors import RequestError
from autoslim.service.app import create_app
from autoslim.service.auth import LOCAL_TENANT
from autoslim.service.child_process import child_process
from autoslim.service.connections import BACKLOG, BoundedProtocol, ConnectionTable, fit_open_files
from autoslim.service.settings import RequestLimits, ServiceSettings
from autoslim.store import Access, Keys

PORT = 8400
# Seconds for open requests at shutdown; event streams are ended before.
_SHUTDOWN_SECONDS = 10


def serve(
    settings: ServiceSettings,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    insecure: bool = False,
    command: Sequence[str] | None = None,
    ready: Callable[[str, str], None] = lambda address, access: None,
) -> None:
    """Runs until SIGINT or SIGTERM. `command` is a process that runs as long as the service, such as the supervisor; it has to end when its
    standard input does (see `child_process`).

    `port` 0 takes a free one. `ready` is called before the first request, with the URL and with who needs a key. `insecure` lets an open
    service listen on any address, and behind a proxy.

    Raises:
        RequestError: for a host other than loopback while the service is open, or an address that cannot be bound.
        UnavailableError: when the store cannot be reached.
    """
    settings = secure_settings(settings, host=host, insecure=insecure)
    access = describe_access(settings)
    listener = _listen(host, port)
    log_json()
    with listener:
        name = f"[{host}]" if ":" in host else host
        asyncio.run(_serve(settings, listener, command, lambda: ready(f"http://{name}:{listener.getsockname()[1]}", access)))


def secure_settings(settings: ServiceSettings, *, host: str, insecure: bool) -> ServiceSettings:
    """The settings with the host allowed, and with keys required unless it is loopback. Raises RequestError as `serve` does."""
    if insecure or settings.trust_network:
        settings = settings.model_copy(update={"trust_network": True})
    if is_loopback(host):
        return settings
    if not settings.trust_network:
        with Keys(settings.storage) as keys:
            if keys.access() is Access.OPEN:
                raise RequestError(
                    f"the service does not listen on {host} without API keys, since anyone who reaches it could use it; create a key with "
                    "`autoslim keys create`, listen on 127.0.0.1, or pass --insecure"
                )
        # Stays closed when it is opened while it runs: that was decided for a service on loopback.
        settings = settings.model_copy(update={"keys_required": True})
    known = {host, socket.gethostname(), socket.getfqdn()} - {"", "0.0.0.0", "::"}  # noqa: S104 - compared only  # nosec B104
    return settings.model_copy(update={"allowed_hosts": (*settings.allowed_hosts, *sorted(known))})


def describe_access(settings: ServiceSettings) -> str:
    """Whether the service is open or closed, as one sentence. Raises UnavailableError when the store cannot be reached."""
    with Keys(settings.storage) as keys:
        if settings.keys_required or keys.access() is Access.CLOSED:
            without = "" if keys.count_usable() else ", and no key may be used now: create one with `autoslim keys create`"
            return f"closed: every request needs an API key{without}"
    who = "whoever reaches it" if settings.trust_network else "whoever is on this machine"
    return f"open: {who} needs no API key, and has the jobs of the tenant {LOCAL_TENANT!r}; `autoslim keys create` closes it"


def _listen(host: str, port: int) -> socket.socket:
    # The protocol is explicit because asyncio disables Nagle's algorithm only for sockets that it knows to be TCP. With Nagle's algorithm
    # a response on a kept-alive connection waits 40 ms for an acknowledgement.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise RequestError(f"cannot listen on {host}:{port}: {error}") from error
    return listener


class _Server(uvicorn.Server):
    """Ends the event streams at shutdown; uvicorn would otherwise wait for them until its timeout."""

    def __init__(self, app: FastAPI, ready: Callable[[], None], limits: RequestLimits) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            # A WebSocket would leave the bounded protocol, and no route has any.
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            # X-Forwarded-For is not trusted: it is not known whether a proxy is in front of the service.
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            backlog=BACKLOG,
        )
        super().__init__(config)
        self.server_state = ConnectionTable(limits)
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.autoslim.events.end_streams()
        await super().shutdown(sockets)


async def _serve(
    settings: ServiceSettings, listener: socket.socket, command: Sequence[str] | None, ready: Callable[[], None]
) -> None:
    server = _Server(create_app(settings), ready, fit_open_files(settings.limits))
    # uvicorn restores the handlers that it finds and raises its signals again when it has stopped. The default handlers would end this
    # process, or cancel this task, before the child process has ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    async with child_process(command):
        await server.serve(sockets=[listener])
