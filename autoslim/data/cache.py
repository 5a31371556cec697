"""The encoded images of a prepared data set in Arrow IPC files, published as a whole. N images."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autoslim.core import activity
from autoslim.core.file_lock import file_lock
from autoslim.core.files import publish_folder
from autoslim.data.left_files import left_aside
from autoslim.data.rewritten_file import RewrittenFile
from autoslim.data.table import Labels
from autoslim.errors import OutputError

EncodedRow = tuple[bytes, int, str]
"""Encoded image, label, and the image's name in reports."""

# A writer holds one batch in memory.
_BATCH_BYTES = 32 * 2**20
"""Size of an Arrow record batch: the most that writing holds in memory."""

_BATCHES_AT_ONCE = 64
"""Whose heads are in memory while a file is opened: each brings the pages around it, tens of kilobytes."""

_MAGIC_BYTES = 8
"""At the beginning of an Arrow IPC file, before its stream."""

_ENCODED = pa.schema([("bytes", pa.binary()), ("label", pa.int64()), ("name", pa.string())])


@contextlib.contextmanager
def publish_once(target: Path, *, left: bool = False) -> Iterator[Path | None]:
    """Yields an empty folder that becomes `target` when the block ends without an error, or None if `target` exists. With `left` an
    interrupted process leaves what it has written, which the next one finds beside the folder (`take_left`).

    One process works at a time, on any node; the others wait and find `target`.
    """
    if target.is_dir():
        yield None
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(target.with_name(f"{target.name}.lock")):
            # Checked again: the lock's last owner may have published it in between.
            if target.is_dir():
                yield None
                return
            aside = left_aside(target) if left else contextlib.nullcontext()
            with aside, publish_folder(target, left=left) as folder:
                yield folder
    except OSError as error:
        raise OutputError(f"the data cache {target} cannot be written: {error}") from error


def write_encoded(path: Path, rows: Iterable[EncodedRow]) -> None:
    """An iterator that is interrupted leaves the batches that are written by then, and what an earlier one has left behind them."""
    with contextlib.closing(RewrittenFile(path)) as file, pa.ipc.new_file(file, _ENCODED) as writer:
        try:
            _write_rows(writer, rows)
        except BaseException:
            # The writer would end the file here.
            file.keep()
            raise


def _write_rows(writer: Any, rows: Iterable[EncodedRow]) -> None:
    pending: list[EncodedRow] = []
    size = 0
    for row in rows:
        pending.append(row)
        size += len(row[0])
        if size > _BATCH_BYTES:
            writer.write_batch(_encoded_batch(pending))
            activity.mark()
            pending, size = [], 0
    if pending:
        writer.write_batch(_encoded_batch(pending))


def _encoded_batch(rows: list[EncodedRow]) -> Any:
    columns = [pa.array(column, type=field.type) for column, field in zip(zip(*rows, strict=True), _ENCODED, strict=True)]
    return pa.record_batch(columns, schema=_ENCODED)


class EncodedFile:
    """The encoded images of one split. They are read as they are asked for: what a process has read of a map counts as its memory, in the
    end the whole set."""

    def __init__(self, path: Path, *, unfinished: bool = False) -> None:
        """One that is `unfinished` ends with its last whole batch.

        Raises:
            OSError, ValueError: for a file that cannot be read, or is empty.
        """
        self._path = path
        with path.open("rb") as file:
            self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)
            self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        whole = pa.py_buffer(self._map)
        self._batches: list[Any] = []
        # Where in the file each batch has the ends of its images (32 bits each), and their bytes.
        self._places: list[tuple[int, int]] = []
        labels = [np.empty(0, np.int64)]
        for number, batch in enumerate(_unfinished_batches(whole) if unfinished else _batches(whole)):
            self._batches.append(batch)
            self._places.append(_places(batch.column("bytes"), whole))
            labels.append(batch.column("label").to_numpy().copy())
            if number % _BATCHES_AT_ONCE == 0:
                self._forget_pages()
        self._starts = np.cumsum([0] + [batch.num_rows for batch in self._batches])
        self.labels: Labels = np.concatenate(labels)
        self._forget_pages()

    def __len__(self) -> int:
        return len(self.labels)

    def bytes_of(self, index: int) -> bytes:
        batch, row = self._place(index)
        ends, data = self._places[batch]
        start, stop = struct.unpack("<ii", self._read(8, ends + 4 * row))
        return self._read(stop - start, data + start)

    def images(self) -> Iterator[tuple[bytes, str]]:
        """All images, in their order, with their names."""
        for start, batch in zip(self._starts.tolist(), self._batches, strict=False):
            names = batch.column("name").to_pylist()
            self._forget_pages()
            for row, name in enumerate(names):
                yield self.bytes_of(start + row), name

    def name_of(self, index: int) -> str:
        """As in reports."""
        batch, row = self._place(index)
        name: str = self._batches[batch].column("name")[row].as_py()
        self._forget_pages()
        return name

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the batch, and the row in it."""
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        return batch, index - int(self._starts[batch])

    def _read(self, size: int, offset: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise OSError(f"{self._path} became shorter while it was used")
        return data

    def _forget_pages(self) -> None:
        """What the map has read is no part of this process any more; it is read again where it is looked at."""
        self._map.madvise(mmap.MADV_DONTNEED)


def _batches(whole: Any) -> Iterator[Any]:
    reader = pa.ipc.open_file(whole)
    return (reader.get_batch(number) for number in range(reader.num_record_batches))


def _unfinished_batches(whole: Any) -> Iterator[Any]:
    """Those before the place where the file is cut off. Without its end it is a stream."""
    with contextlib.suppress(pa.ArrowException, OSError, IndexError):
        yield from pa.ipc.open_stream(pa.BufferReader(whole.slice(_MAGIC_BYTES)))


def _places(images: Any, whole: Any) -> tuple[int, int]:
    """Where the ends and the bytes of a batch's `images` lie in the file, which is `whole` in memory."""
    _, ends, data = images.buffers()
    assert images.offset == 0, "a part of a batch"
    # Images without a byte are none that could be read, and Arrow may leave their buffer out.
    return ends.address - whole.address, 0 if data is None else data.address - whole.address
