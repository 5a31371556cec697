"""Folders that `datasets` writes with `save_to_disk`: Arrow streams beside `state.json`, one folder a split under `dataset_dict.json`.

They are read with pyarrow alone, and as what anyone may have written: every offset is checked before it is followed.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autoslim.data.assemble import Part, assemble, no_labels
from autoslim.data.columns import Columns, choose_columns, given_names
from autoslim.data.image_file import ImageFinder
from autoslim.data.labels import coded_column
from autoslim.data.links import check_inside
from autoslim.data.parquet import MAX_ROWS
from autoslim.data.shards import beside
from autoslim.data.split_names import split_named
from autoslim.data.table import Indices, Row, Source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError, first_line

SPLITS_FILE, STATE_FILE = "dataset_dict.json", "state.json"
_INFO_FILE = "dataset_info.json"
_MAX_JSON = 16 * 2**20
"""Bytes of a JSON file of such a folder: one with a hundred thousand class names has some MiB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """The files of each split of a saved data set."""

    by_split: dict[str, list[Path]]
    not_used: tuple[str, ...] = ()


def find_saved(root: Path) -> Saved | None:
    """What `save_to_disk` wrote to `root`: a `DatasetDict`, or a single `Dataset`, which is all train. None for another folder.

    Raises:
        DatasetError: for a folder whose JSON files do not say what it holds, or name files elsewhere.
    """
    if (root / SPLITS_FILE).is_file():
        return _saved_splits(root)
    if not (root / STATE_FILE).is_file():
        return None
    files = _files_of(root, root)
    return Saved(by_split={"train": files}, not_used=_left(root, files))


def read_saved(root: Path, saved: Saved, wanted: Wanted) -> Source:
    """Splits by the names that `DatasetDict` has for them."""
    first = _File.open(saved.by_split["train"][0], root, wanted).columns
    parts = {
        split: [_File.open(path, root, first.again(wanted)).part() for path in paths] for split, paths in saved.by_split.items()
    }
    files = [path for paths in saved.by_split.values() for path in paths]
    return assemble(
        str(root),
        parts,
        labelled=wanted.labelled,
        files=files,
        not_used=(*first.not_used, *saved.not_used),
        chosen=first.chosen,
    )


def row_count(path: Path, most: int) -> int:
    """Of a stream, from the heads of its batches; counting ends above `most`."""
    found = 0
    for batch in _batches(path):
        found += batch.num_rows
        if found > most:
            break
    return found


def _saved_splits(root: Path) -> Saved:
    names = _json(root / SPLITS_FILE).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{root / SPLITS_FILE} has no list of splits; expected what save_to_disk writes")
    by_split: dict[str, list[Path]] = {}
    left = []
    for name in names:
        split = split_named(name)
        if split is None:
            left.append(f"the split {name[:80]}, which is neither train, validation nor test")
        elif split in by_split:
            raise DatasetError(f"{root} has two {split} splits, one of them {name}; allowed: one")
        else:
            by_split[split] = _files_of(root, root / name)
    if "train" not in by_split:
        raise DatasetError(f"{root} has the splits {', '.join(names[:20])} but no train")
    used = [path for paths in by_split.values() for path in paths]
    folders = {f"the folder {name}" for name in names}
    return Saved(by_split=by_split, not_used=(*left, *(line for line in _left(root, used) if line not in folders)))


def _left(root: Path, used: list[Path]) -> tuple[str, ...]:
    return beside(root, [*used, *(root / name for name in (SPLITS_FILE, STATE_FILE, _INFO_FILE))])


def _files_of(root: Path, folder: Path) -> list[Path]:
    """The Arrow files of one split, in the order that its state gives them."""
    check_inside(root, folder)
    state = _json(folder / STATE_FILE)
    entries = state.get("_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries] if isinstance(entries, list) else []
    if not names or state.get("_indices_files"):
        raise DatasetError(
            f"{folder / STATE_FILE} names no data files, or indices beside them; save the data set again with save_to_disk"
        )
    files = []
    for name in names:
        # A name alone: whoever wrote the file must not choose what else is read.
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise DatasetError(f"{folder / STATE_FILE} names the data file {name!r}; allowed: a file in {folder}")
        check_inside(root, folder / name)
        if not (folder / name).is_file():
            raise DatasetError(f"{folder} has no {name}, which its {STATE_FILE} names; copy the whole folder")
        files.append(folder / name)
    return files


def _json(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON + 1)
        value = json.loads(data) if len(data) <= _MAX_JSON else None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read as JSON ({first_line(error)}); expected what save_to_disk writes") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{path} is no JSON object of at most {_MAX_JSON // 2**20} MiB; expected what save_to_disk writes")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    """One Arrow stream whose schema has been checked."""

    path: Path
    schema: Any
    columns: Columns
    finder: ImageFinder

    @classmethod
    def open(cls, path: Path, root: Path, wanted: Wanted) -> _File:
        schema = _stream(path).schema
        columns = choose_columns(schema, wanted, str(path))
        return cls(path=path, schema=schema, columns=columns, finder=ImageFinder.of(root, path.parent))

    def part(self) -> Part:
        label, chunks, rows = self.columns.label, [], 0
        for batch in _batches(self.path):
            rows += batch.num_rows
            if rows > MAX_ROWS:
                raise DatasetError(f"{self.path} has more than {MAX_ROWS:,} rows; allowed: at most that many")
            if label is not None:
                chunks.append(_checked(batch.column(label), self.path, rows))
        if label is None:
            return Part(name=str(self.path), labels=no_labels(rows), rows=self._rows)
        column = pa.chunked_array(chunks, self.schema.field(label).type)
        return Part(
            name=str(self.path),
            labels=coded_column(column, f"{self.path}: column {label}"),
            rows=self._rows,
            classes=given_names(self.schema, label, str(self.path)),
        )

    def _rows(self, wanted: Indices) -> Iterator[Row]:
        first, start = 0, 0
        for batch in _batches(self.path):
            images = _checked(batch.column(self.columns.image), self.path, first)
            # They are sorted: those of a batch are the next ones.
            stop = int(np.searchsorted(wanted, first + batch.num_rows))
            for row in map(int, wanted[start:stop]):
                where = f"{self.path.name}:{row}"
                data, path = self.finder.read(images[row - first].as_py(), where)
                yield row, data, f"{where} ({path})" if path else where
            first, start = first + batch.num_rows, stop


def _checked(column: Any, path: Path, row: int) -> Any:
    """The column, whose offsets and texts are valid: Arrow follows them without looking."""
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        raise DatasetError(f"{path} is damaged near row {row} ({first_line(error)}); save the data set again") from error
    return column


def _batches(path: Path) -> Iterator[Any]:
    row = 0
    try:
        for batch in _stream(path):
            yield batch
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read after row {row} ({first_line(error)})") from error


def _stream(path: Path) -> Any:
    """A reader of the file's map: a batch is not copied."""
    try:
        _refuse_compressed(path)
        _refuse_cut(path)
        return pa.ipc.open_stream(pa.memory_map(str(path)))
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"{path} is not a readable Arrow stream ({first_line(error)}); expected what save_to_disk writes"
        ) from error


def _refuse_compressed(path: Path) -> None:
    """`datasets` compresses nothing, and a compressed batch may unpack to thousands of times its size."""
    for message in pa.ipc.MessageReader.open_stream(pa.memory_map(str(path))):
        if message.type in ("record batch", "dictionary") and _is_compressed(message.metadata.to_pybytes(), message.type):
            raise DatasetError(f"{path} has compressed batches; allowed: what save_to_disk writes, which compresses none")


_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What ends a stream in Arrow's IPC format since version 0.15."""

# Places of fields in the tables of Arrow's Message.fbs: the header of a message, the compression of a record batch, the batch in a
# dictionary.
_HEADER, _COMPRESSION, _DICTIONARY_DATA = 2, 3, 1


def _refuse_cut(path: Path) -> None:
    """A stream that is cut between two batches can be read, and would be a smaller data set."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(_END)))
        if file.read() != _END:
            raise DatasetError(f"{path} is cut: the mark of a stream's end is missing; copy the data set again")


def _is_compressed(metadata: bytes, kind: str) -> bool:
    """Whether a record batch's flatbuffer (Arrow's `Message.fbs`) has the field `compression`."""
    try:
        table = struct.unpack_from("<I", metadata)[0]
        batch = _table_at(metadata, table, _HEADER)
        if kind == "dictionary" and batch is not None:
            batch = _table_at(metadata, batch, _DICTIONARY_DATA)
        return batch is not None and _table_at(metadata, batch, _COMPRESSION) is not None
    except struct.error as error:
        raise pa.ArrowInvalid(f"a message cannot be read: {error}") from error


def _table_at(data: bytes, table: int, field: int) -> int | None:
    """Where the table in a field of the table at `table` begins; None where the field is not there."""
    fields = table - struct.unpack_from("<i", data, table)[0]
    place = 4 + 2 * field
    if fields < 0 or place >= struct.unpack_from("<H", data, fields)[0]:
        return None
    offset = struct.unpack_from("<H", data, fields + place)[0]
    if offset == 0:
        return None
    found: int = table + offset + struct.unpack_from("<I", data, table + offset)[0]
    return found
