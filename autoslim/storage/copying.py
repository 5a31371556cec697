"""Copies of streams, in parts: files may be larger than memory."""

from __future__ import annotations

from typing import Any

STREAMS = 8
"""Files that are copied at once: of small ones, most of the time goes into waiting for a server."""

_PART = 8 * 2**20
"""Bytes; a part of a multipart upload to S3 has at least five million."""


def copy_stream(source: Any, target: Any) -> int:
    """Copies what is left of `source`, a binary file; returns how many bytes."""
    copied = 0
    while part := source.read(_PART):
        target.write(part)
        copied += len(part)
    return copied
