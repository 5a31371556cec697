"""`PathList`: paths of a data set's files in one Arrow array. An object a path would take ten times its text, and a data set has millions.

N files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

_AT_ONCE = 1024
"""Texts that an iterator holds."""


def path_array(places: Iterable[str]) -> Any:
    """An Arrow array of paths, as the bytes that the file system has for them: these may be no UTF-8."""
    return pa.array([os.fsencode(place) for place in places], pa.large_binary())


def texts_of(column: Any) -> Iterator[Any]:
    """The values of an Arrow array, chunked or not, a few at a time as objects."""
    for start in range(0, len(column), _AT_ONCE):
        yield from column.slice(start, _AT_ONCE).to_pylist()


class PathList:
    """Files below `root` (N,), by `arrays` of their paths relative to it (`path_array`), one behind the other."""

    def __init__(self, root: Path, arrays: Sequence[Any]) -> None:
        # The current folder is no part of a path. Put before the others by hand: to join two million of them takes seconds.
        self._head = "" if root == Path() else os.path.join(root, "")
        self._places = pa.concat_arrays([path_array(()), *arrays])

    def __len__(self) -> int:
        return len(self._places)

    def place(self, row: int) -> str:
        """The path relative to the root."""
        return os.fsdecode(self._places[row].as_py())

    def path(self, row: int) -> Path:
        return Path(f"{self._head}{self.place(row)}")

    def __iter__(self) -> Iterator[str]:
        """Whole paths."""
        return (self._head + os.fsdecode(place) for place in texts_of(self._places))
