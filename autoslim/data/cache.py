"""The encoded images of a prepared data set in Arrow IPC files: published as a whole, and memory-mapped for reading. N images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock

from autoslim.core.files import publish_folder
from autoslim.data.table import Labels
from autoslim.errors import OutputError

EncodedRow = tuple[bytes, int, str]
"""Encoded image, label, and the image's name in reports."""

# A writer holds one batch in memory.
_BATCH_BYTES = 32 * 2**20
"""Size of an Arrow record batch: the most that writing holds in memory."""

_ENCODED = pa.schema([("bytes", pa.binary()), ("label", pa.int64()), ("name", pa.string())])


@contextlib.contextmanager
def publish_once(target: Path) -> Iterator[Path | None]:
    """Yields an empty folder that becomes `target` when the block ends without an error, or None if `target` exists.

    One process works at a time, on any node; the others wait and find `target`.
    """
    if target.is_dir():
        yield None
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            # Checked again: the lock's last owner may have published it in between.
            if target.is_dir():
                yield None
                return
            with publish_folder(target) as folder:
                yield folder
    except OSError as error:
        raise OutputError(f"the data cache {target} cannot be written: {error}") from error


def write_encoded(path: Path, rows: Iterable[EncodedRow]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _ENCODED) as writer:
        pending: list[EncodedRow] = []
        size = 0
        for row in rows:
            pending.append(row)
            size += len(row[0])
            if size > _BATCH_BYTES:
                writer.write_batch(_encoded_batch(pending))
                pending, size = [], 0
        if pending:
            writer.write_batch(_encoded_batch(pending))


def _encoded_batch(rows: list[EncodedRow]) -> Any:
    columns = [pa.array(column, type=field.type) for column, field in zip(zip(*rows, strict=True), _ENCODED, strict=True)]
    return pa.record_batch(columns, schema=_ENCODED)


class EncodedFile:
    """The encoded images of one split."""

    def __init__(self, path: Path) -> None:
        self._batches = _read_batches(path)
        self._starts = np.cumsum([0] + [batch.num_rows for batch in self._batches])
        columns = [batch.column("label").to_numpy() for batch in self._batches]
        self.labels: Labels = np.concatenate([np.empty(0, np.int64), *columns])

    def __len__(self) -> int:
        return len(self.labels)

    def bytes_of(self, index: int) -> bytes:
        value: bytes = self._value("bytes", index)
        return value

    def name_of(self, index: int) -> str:
        """As in reports."""
        value: str = self._value("name", index)
        return value

    def _value(self, column: str, index: int) -> Any:
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._batches[batch].column(column)[index - int(self._starts[batch])].as_py()


def _read_batches(path: Path) -> list[Any]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]
