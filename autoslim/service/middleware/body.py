"""Refuses a body with two lengths, and limits its size, both as declared by Content-Length and as received."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoslim.service.problems import ProblemError, problem_response

# A client that has not read the 413 yet still sends; up to 16 times the limit, or 10 s, is read so that it sees the response.
_DRAIN_FACTOR = 16
_DRAIN_SECONDS = 10.0


class BodyLimit:
    """`limit` is in bytes; a larger body gives a 413."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy that believes the other length takes a part of this body for the next request (RFC 9112, section 6.1).
            await self._refuse(
                400, "ambiguous-length", "the request has both Content-Length and Transfer-Encoding", scope, receive, send
            )
            return
        detail = f"the body is larger than {self._limit} bytes"
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._limit:
            await _drain(receive, _DRAIN_FACTOR * self._limit)
            await self._refuse(413, "content-too-large", detail, scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise ProblemError(413, "content-too-large", detail, headers={"Connection": "close"})
            return message

        await self._app(scope, limited, send)

    @staticmethod
    async def _refuse(status: int, code: str, detail: str, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["state"].get("request_id")
        await problem_response(request_id, status, code, detail, headers={"Connection": "close"})(scope, receive, send)


async def _drain(receive: Receive, most: int) -> None:
    """Discards the rest of the body: a client whose connection is closed while it sends does not read the response."""
    read, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while more and read < most:
                message = await receive()
                read += len(message.get("body", b""))
                more = bool(message.get("more_body", False))
