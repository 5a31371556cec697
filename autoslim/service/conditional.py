"""Conditional requests (RFC 9110, section 13): responses with an ETag, and 304 for a client that has the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response


def etag_response(request: Request, model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The model as JSON with an ETag of its bytes; 304 for a GET whose If-None-Match has this ETag."""
    body = model.model_dump_json().encode()
    # 128 bits of the digest: enough that two responses never have the same tag by chance.
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    sent = {"ETag": etag, **(headers or {})}
    if request.method == "GET" and etag_matches(request, etag):
        return Response(status_code=304, headers=sent)
    return Response(body, status, media_type="application/json", headers=sent)


def etag_matches(request: Request, etag: str) -> bool:
    """Whether If-None-Match has this tag, by weak comparison."""
    field = request.headers.get("if-none-match", "").strip()
    return field == "*" or etag.removeprefix("W/") in [tag.strip().removeprefix("W/") for tag in field.split(",")]
