"""`stamps_of`: sizes and times of a data set's files, by which a changed one is recognized.

A folder has millions of images. Of a long list a process of its own (`stamp_process`) looks at the disk, while this one makes texts of the
paths before, and hashes what it gets: a search has its images in half the time. A process, since Python runs one thread at a time.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import logging
import os
from collections.abc import Generator

from autoslim.core.child_process import start_child
from autoslim.core.cpus import usable_cpus
from autoslim.data.map_ahead import map_ahead
from autoslim.data.path_list import PathList

FileStamp = tuple[str, int, int, int]
"""Path of a file, its size (bytes), when it was written (ns), which who writes it may choose, and when it was changed (ns), which the
system says; -1 for a missing one."""

NUMBERS = "q"
"""Type of the numbers in an array of stamps: 64 bits with a sign."""

_MODULE = "autoslim.data.stamp_process"

_LONG = 200_000
"""Files of a list for which a process is started: to look at so many takes as long as its start."""

_AT_ONCE = 4_096
"""Paths that the process is given: few enough that memory does not grow, and enough that the pipe costs little."""

_AHEAD = 2

_log = logging.getLogger(__name__)


def stamp_of(path: str) -> tuple[int, int, int]:
    """Size and times as of `FileStamp`."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        # An image that a manifest names and that cannot be there is one of the unreadable ones.
        return -1, -1, -1
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def stamps_of(paths: PathList) -> Generator[FileStamp]:
    """Of whole paths, in their order."""
    if len(paths) < _LONG or usable_cpus() == 1:
        return ((path, *stamp_of(path)) for path in paths)
    return _elsewhere(paths)


def _elsewhere(paths: PathList) -> Generator[FileStamp]:
    rest = iter(paths)
    parts = iter(lambda: list(itertools.islice(rest, _AT_ONCE)), [])
    done = 0
    try:
        with contextlib.closing(_Looker()) as look, contextlib.closing(map_ahead(look, parts, threads=1, ahead=_AHEAD)) as looked:
            try:
                for part, numbers in looked:
                    flat = iter(numbers)
                    yield from zip(part, flat, flat, flat, strict=True)
                    done += len(part)
            finally:
                # Before the thread is waited for: what it waits for may never come, from a network folder that is away.
                look.end()
    except (EOFError, OSError) as error:
        _log.warning(
            "no process looks at the data set's files beside this one any more (%s): it looks at the others itself", error
        )
        yield from ((path, *stamp_of(path)) for path in itertools.islice(paths, done, None))


class _Looker:
    """The process, which looks at one part after the other."""

    def __init__(self) -> None:
        self._process, self._connection = start_child(_MODULE)

    def __call__(self, part: list[str]) -> tuple[list[str], array.array[int]]:
        """Raises EOFError or OSError where the process has ended."""
        self._connection.send(part)
        numbers = array.array(NUMBERS)
        numbers.frombytes(self._connection.recv_bytes())
        return part, numbers

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def close(self) -> None:
        """When no thread uses it any more."""
        self.end()
        self._connection.close()
