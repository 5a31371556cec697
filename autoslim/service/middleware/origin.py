"""Refuses requests with a Host that is malformed or foreign (DNS rebinding), and what a browser sends for another site's page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from autoslim.service.problems import problem_response

# RFC 9110, section 7.2. User information (`name@host`) is not part of it: another program may take what is before the @ for the host.
_HOST = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class SameOrigin:
    """Any page may send simple requests to loopback, where a service may have no keys; a browser names the page's origin in them."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = None
        if not _HOST.fullmatch(headers.get("host", "")):
            refusal = (400, "invalid-host", "the Host header is not a name or an address with an optional port")
        elif "*" not in self._hosts and _host("//" + headers.get("host", "")) not in self._hosts:
            refusal = (421, "unknown-host", "the service does not serve the name in the Host header")
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin") or not self._is_same_origin(
            headers.get("origin")
        ):
            refusal = (403, "cross-origin-request", "requests from another site's page are refused")
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problem_response(scope["state"].get("request_id"), *refusal)(scope, receive, send)

    def _is_same_origin(self, origin: str | None) -> bool:
        return origin is None or (origin != "null" and (_host(origin) in self._hosts))


def _host(address: str) -> str | None:
    """`localhost` for `http://localhost:8080`; None for a text that is not an address."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
