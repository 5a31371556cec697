"""Opaque cursors, and answers that say whether they have changed."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from autoslim.service.problems import Error, ProblemError


def token_of(cursor: str) -> str:
    return base64.urlsafe_b64encode(b"1:" + cursor.encode()).decode().rstrip("=")


def cursor_of(token: str | None, *, digits: bool = False) -> str | None:
    """What was given out by `token_of`. Raises a 422 for anything else."""
    if token is None:
        return None
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        text = ""
    version, _, cursor = text.partition(":")
    if version != "1" or not cursor.isalnum() or (digits and not (cursor.isdecimal() and len(cursor) < 10)):
        detail = "is not one that this service gave out"
        raise ProblemError(
            422, "invalid-parameter", f"page_token {detail}", errors=[Error(detail=detail, parameter="page_token")]
        )
    return cursor


def answer(request: Request, view: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The view as JSON with an ETag of its bytes; 304 for a client that has these already."""
    body = view.model_dump_json(by_alias=True).encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    sent = {"ETag": etag, **(headers or {})}
    if request.method == "GET" and knows(request, etag):
        return Response(status_code=304, headers=sent)
    return Response(body, status, media_type="application/json", headers=sent)


def knows(request: Request, etag: str) -> bool:
    """Whether If-None-Match has this tag, by weak comparison."""
    told = request.headers.get("if-none-match", "")
    return told.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in told.split(",")]
