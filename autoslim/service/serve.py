"""`serve`: the service on a port, loopback unless there are keys."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence

import uvicorn
from fastapi import FastAPI

from autoslim.core.logs import log_json
from autoslim.errors import RequestError
from autoslim.service.app import create_app
from autoslim.service.child_process import child_process
from autoslim.service.settings import ServiceSettings
from autoslim.store import Keys

PORT = 8400
_GRACE = 10
_CONNECTIONS = 2000


def serve(
    settings: ServiceSettings,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    insecure: bool = False,
    command: Sequence[str] | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Runs until SIGINT or SIGTERM, which end event streams first. `command` is a process to run beside, such as the supervisor.

    `port` 0 takes any that is free; `ready` is told the address before the first request. `insecure` allows other hosts without keys.

    Raises:
        RequestError: for another address than loopback while there are no keys, or one that cannot be listened on.
        ClusterError: when the store cannot be reached.
    """
    settings = secured(settings, host=host, insecure=insecure)
    listener = _listen(host, port)
    log_json()
    with listener:
        name = f"[{host}]" if ":" in host else host
        asyncio.run(_serve(settings, listener, command, lambda: ready(f"http://{name}:{listener.getsockname()[1]}")))


def secured(settings: ServiceSettings, *, host: str, insecure: bool) -> ServiceSettings:
    """The settings as they have to be for this address. Raises RequestError as `serve` does."""
    if _is_loopback(host):
        return settings
    if not insecure:
        with Keys(settings.storage) as keys:
            if not keys.exist():
                raise RequestError(
                    f"the service is not opened on {host} while it has no API keys, for whoever reaches it could use it; make one by "
                    "`autoslim keys create`, listen on 127.0.0.1, or give --insecure"
                )
        # Also when the last key is revoked.
        settings = settings.model_copy(update={"keys_required": True})
    known = {host, socket.gethostname(), socket.getfqdn()} - {"", "0.0.0.0", "::"}  # noqa: S104 - compared only  # nosec B104
    return settings.model_copy(update={"allowed_hosts": (*settings.allowed_hosts, *sorted(known))})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    # The protocol is named, because asyncio turns Nagle's algorithm off for sockets of which it knows that they are TCP's; with it an
    # answer on a kept connection waits 40 ms for an acknowledgement.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        raise RequestError(f"{host}:{port} cannot be listened on: {error}") from error
    return listener


class _Server(uvicorn.Server):
    """Streams have to end before the connections are waited for."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            # Whoever is in front of the service is not known here, so that nobody's word is taken for an address.
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_GRACE,
            limit_concurrency=_CONNECTIONS,
        )
        super().__init__(config)
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.services.hub.end_streams()
        await super().shutdown(sockets)


async def _serve(
    settings: ServiceSettings, listener: socket.socket, command: Sequence[str] | None, ready: Callable[[], None]
) -> None:
    server = _Server(create_app(settings), ready)
    async with child_process(command):
        await server.serve(sockets=[listener])
