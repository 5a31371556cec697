"""A file as a response, whole or one byte range (RFC 9110, section 14), read from an open descriptor."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator

import anyio.to_thread
from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from autoslim.service.conditional import etag_matches
from autoslim.service.problems import ProblemError

# Bytes per read: large enough that the switch to a thread costs little, small enough for many downloads at once.
_CHUNK = 2**18
# At most 18 digits fit into 64 bits.
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class RangeResponse(StreamingResponse):
    """Closes the descriptor when the response ends, also when the client disconnects."""

    def __init__(self, descriptor: int, start: int, length: int, status: int, headers: dict[str, str]) -> None:
        super().__init__(_read(descriptor, start, length), status, headers=headers)
        self._descriptor = descriptor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)


def range_response(request: Request, descriptor: int, *, media_type: str, etag: str, download: str | None = None) -> Response:
    """Takes ownership of the descriptor. `download` is the file name that a browser suggests.

    Raises:
        ProblemError: 416 for a range that starts behind the end of the file.
    """
    try:
        size = os.fstat(descriptor).st_size
        headers = {"Content-Type": media_type, "ETag": etag, "Accept-Ranges": "bytes"}
        if download is not None:
            headers["Content-Disposition"] = f'attachment; filename="{_safe_name(download)}"'
        if etag_matches(request, etag):
            os.close(descriptor)
            return Response(status_code=304, headers=headers)
        start, length = _byte_range(request, size, etag)
    except BaseException:
        os.close(descriptor)
        raise
    headers["Content-Length"] = str(length)
    partial = (start, length) != (0, size) or _parse_range(request, etag)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    return RangeResponse(descriptor, start, length, 206 if partial else 200, headers)


def _parse_range(request: Request, etag: str) -> re.Match[str] | None:
    """None sends the whole file: for a field that is not one range, and for a range of another version (If-Range)."""
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or match.groups() == ("", "") or (match[1] and match[2] and int(match[1]) > int(match[2])):
        return None
    return match if request.headers.get("if-range", etag) == etag else None


def _byte_range(request: Request, size: int, etag: str) -> tuple[int, int]:
    """Start and length, in bytes."""
    match = _parse_range(request, etag)
    if match is None:
        return 0, size
    first, last = match.groups()
    # `bytes=-500` is the last 500 bytes.
    start = max(0, size - int(last)) if not first else int(first)
    if start >= size:
        raise ProblemError(
            416, "range-not-satisfiable", f"the file has {size} bytes", headers={"Content-Range": f"bytes */{size}"}
        )
    end = size - 1 if not first or not last else min(int(last), size - 1)
    return start, end - start + 1


async def _read(descriptor: int, start: int, length: int) -> AsyncIterator[bytes]:
    while length > 0:
        data = await anyio.to_thread.run_sync(os.pread, descriptor, min(length, _CHUNK), start)
        if not data:
            raise OSError("the file became shorter while it was read")
        yield data
        start, length = start + len(data), length - len(data)


def _safe_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._%+-]", "_", name)
