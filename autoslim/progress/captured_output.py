"""`CapturedOutput`: what this process and its children write to a terminal, line by line, so that it does not tear what is drawn there."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Self

_AT_ONCE = 65536
"""Bytes of a read: what a pipe holds on Linux."""


class CapturedOutput:
    """While it is entered, `take` gets each line that is written to the file `descriptors`.

    File descriptors and not Python's streams: loggers keep the stream that they began with, and Ray, torch and child processes
    write from outside of Python. `duplicate` is a descriptor of the terminal itself.
    """

    def __init__(self, descriptors: Sequence[int], take: Callable[[str], None]) -> None:
        self._take = take
        self._kept = {descriptor: os.dup(descriptor) for descriptor in descriptors}
        self.duplicate = os.dup(descriptors[0])
        self._rest = b""

    def __enter__(self) -> Self:
        _flush()
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self._stop, self._stopped = os.pipe()
        for descriptor in self._kept:
            os.dup2(write, descriptor)
        os.close(write)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        _flush()
        for descriptor, kept in self._kept.items():
            os.dup2(kept, descriptor)
            os.close(kept)
        # Not the end of the pipe: a child that outlives the command may hold it open.
        os.close(self._stopped)
        self._thread.join()
        for descriptor in (self._read, self._stop):
            os.close(descriptor)

    def _follow(self) -> None:
        open_ends = [self._read, self._stop]
        while self._stop not in (ready := select.select(open_ends, [], [])[0]):
            if self._read in ready and not self._read_some():
                # Nobody writes any more; what is left to wait for is the end.
                open_ends = [self._stop]
        while self._read_some():
            pass
        if self._rest:
            self._pass_on(self._rest)

    def _read_some(self) -> bool:
        """False at the end of the pipe, and where nothing has been written."""
        try:
            chunk = os.read(self._read, _AT_ONCE)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._pass_on(line)
        return bool(chunk)

    def _pass_on(self, line: bytes) -> None:
        # Of a line that overwrites itself, such as a library's own bar, the last state.
        text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
        if text.strip():
            self._take(text)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
