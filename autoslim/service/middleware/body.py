"""No body larger than the limit is read, whatever it says of its own length."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoslim.service.problems import ProblemError, render

_PATIENT = 16
_SECONDS = 10.0


class BodyLimit:
    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        detail = f"the body is larger than {self._limit} bytes"
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdecimal() or int(told) > self._limit:
            await _drain(receive, _PATIENT * self._limit)
            response = render(scope["state"].get("request_id"), 413, "body-too-large", detail, headers={"Connection": "close"})
            await response(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise ProblemError(413, "body-too-large", detail, headers={"Connection": "close"})
            return message

        await self._app(scope, limited, send)


async def _drain(receive: Receive, most: int) -> None:
    """Throws away what a client sends without asking first; one that is hung up on meanwhile does not see why."""
    read, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS):
            while more and read < most:
                message = await receive()
                read += len(message.get("body", b""))
                more = bool(message.get("more_body", False))
