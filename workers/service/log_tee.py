"""`LogTee`: writes each JSON line of a log to several streams, a log collector and a file, as the command `tee` does."""

from __future__ import annotations

import contextlib
from typing import TextIO


class LogTee:
    """A stream for `logging.StreamHandler`. One that cannot be written to, such as a closed pipe, loses its lines; the others go on."""

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
