"""Opaque page tokens."""

from __future__ import annotations

import base64
import binascii

from autoslim.service.problems import FieldError, ProblemError

# First in every token, so that a later format can be told from this one.
_VERSION = "1"


def encode_page_token(cursor: str) -> str:
    return base64.urlsafe_b64encode(f"{_VERSION}:{cursor}".encode()).decode().rstrip("=")


def decode_page_token(token: str | None, *, digits: bool = False) -> str | None:
    """The cursor that `encode_page_token` was given; with `digits` it must be a number below 10^9.

    Raises:
        ProblemError: 422 for any other token.
    """
    if token is None:
        return None
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        text = ""
    version, _, cursor = text.partition(":")
    if version != _VERSION or not cursor.isalnum() or (digits and not (cursor.isdecimal() and len(cursor) < 10)):
        detail = "is not a page token of this service"
        raise ProblemError(
            422, "invalid-parameter", f"page_token {detail}", errors=[FieldError(detail=detail, parameter="page_token")]
        )
    return cursor
