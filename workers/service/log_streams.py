"""Lines of JSON, to a log collector and into a file."""

from __future__ import annotations

import contextlib
from typing import TextIO


class LogTee:
    """As much of a stream as logging wants. Whoever collected a stream may be gone; that costs its lines there and nothing else."""

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams

    def write(self, text: str) -> None:
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.write(text)

    def flush(self) -> None:
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.flush()
