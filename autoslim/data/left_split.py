"""`LeftSplit`: the images of one split that an interrupted preparation has written, which the next one does not read from the source.

Beside the file of encoded images lies a list of its rows, each with the hash of the image, up to the end of the preparation. The next one
takes the images from the file and does with them all that it does with those of the source, so that it gives the same set; since it would
write the same bytes, those of the file stay where they are (`RewrittenFile`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autoslim.data.cache import EncodedFile
from autoslim.data.copies import HASH_BYTES
from autoslim.data.left_files import LIST
from autoslim.data.rewritten_file import RewrittenFile
from autoslim.data.table import Indices, Row, Table

_ENTRY = np.dtype([("row", "<i8"), ("content", np.bytes_, HASH_BYTES)])


class DamagedLeftError(Exception):
    """An image that was left is not the one that was written, as after a power failure."""


class LeftSplit:
    """`file` has the images of the table's `rows`, as its list says, and perhaps more."""

    def __init__(self, file: EncodedFile, entries: NDArray[np.void]) -> None:
        self._file, self._contents = file, entries["content"]
        self.rows: Indices = entries["row"].astype(np.int64)

    @classmethod
    def find(cls, path: Path, table: Table, rows: Indices) -> Self | None:
        """At `path`, of the split with these rows of the table; None where nothing of use is left."""
        try:
            entries = np.fromfile(path.with_suffix(LIST), _ENTRY)
            file = EncodedFile(path, unfinished=True)
        except (OSError, ValueError):
            return None
        entries = entries[: len(file)]
        own = entries["row"]
        fits = len(own) > 0 and bool((np.diff(own) > 0).all()) and bool(np.isin(own, rows).all())
        # Only now: rows that the table does not have have no labels.
        return cls(file, entries) if fits and np.array_equal(table.labels[own], file.labels[: len(own)]) else None

    def rows_of(self, table: Table, rows: Indices) -> Iterator[Row]:
        """Those of the table, of which the ones that are left are read from the file."""
        is_left = np.isin(rows, self.rows)
        own, others = self._images(), table.rows(rows[~is_left])
        for one in is_left.tolist():
            yield next(own if one else others)

    def _images(self) -> Iterator[Row]:
        try:
            for row, (data, name) in zip(self.rows.tolist(), self._file.images(), strict=False):
                yield row, data, name
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedLeftError from error

    def has(self, row: int, content: bytes) -> bool:
        """Whether the image is one of those that are left, which all could be read. Raises DamagedLeftError for one that has changed."""
        place = int(self.rows.searchsorted(row))
        if place == len(self.rows) or self.rows[place] != row:
            return False
        # NumPy leaves out zeros at the end of what it stores.
        if self._contents[place].ljust(HASH_BYTES, b"\0") != content:
            raise DamagedLeftError
        return True


class LeftList:
    """The list beside the images at `path`, which grows with them."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(LIST)
        self._file = RewrittenFile(self._path)

    def add(self, row: int, content: bytes) -> None:
        self._file.write(row.to_bytes(8, "little") + content)

    def close(self) -> None:
        # A longer list, of what was left, is as long as its file.
        self._file.keep()
        self._file.close()

    def delete(self) -> None:
        """The file is about to change, or whole."""
        self.close()
        self._path.unlink(missing_ok=True)
