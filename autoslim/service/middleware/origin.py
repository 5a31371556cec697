"""Only requests meant for this service: the Host is one of ours (against DNS rebinding), and no other page's script sent it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from autoslim.service.problems import render


class SameOrigin:
    """A browser lets any page send simple requests to loopback, where a service may be open; such a request names its origin."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = None
        if "*" not in self._hosts and _host("//" + headers.get("host", "")) not in self._hosts:
            refusal = (421, "unknown-host", "this service is not known by the name in the Host header")
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin") or not self._is_ours(headers.get("origin")):
            refusal = (403, "foreign-origin", "requests of other sites' pages are not answered")
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await render(scope["state"].get("request_id"), *refusal)(scope, receive, send)

    def _is_ours(self, origin: str | None) -> bool:
        return origin is None or (origin != "null" and (_host(origin) in self._hosts))


def _host(address: str) -> str | None:
    """`localhost` of `http://localhost:8080`; None for what is no address."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
