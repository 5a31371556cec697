"""One tar of a WebDataset: samples whose members are `KEY.jpg` beside `KEY.cls` or `KEY.json`. Nothing is extracted.

Only the heads of members are read to list a tar, and images are read in place, so that the name of a member leads nowhere. Members that
hold pickles are refused: to read one is to run what it says.
"""

from __future__ import annotations

import array
import dataclasses
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autoslim.data.decode import MAX_BYTES
from autoslim.data.labels import MAX_NAME
from autoslim.data.parquet import MAX_ROWS
from autoslim.data.table import Indices, Row
from autoslim.errors import DatasetError, first_line

CLASS, JSON = "cls", "json"
"""Members that hold a label: its text, and an object that has it."""

_PICKLES = ("pyd", "pkl", "pickle", "pth", "pt", "npy", "npz")
"""Members that WebDataset or NumPy may read by running what a pickle in them says."""

_MAX_JSON = 2**20
_MAX_HEAD = 2**20
"""Bytes of one JSON member, and of the head of any member with its long names: a claim of more is none of a sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tar:
    """One tar: of each sample its key, and of each kind of member where it lies, (N, 2) offset and size in bytes, -1 for a missing one."""

    path: Path
    keys: Any
    kinds: dict[str, NDArray[np.int64]]
    ignored: int

    @classmethod
    def open(cls, path: Path) -> Tar:
        """Lists the members. Raises DatasetError for a tar that cannot be read, is compressed, or holds pickles."""
        keys: list[str] = []
        # Three numbers a member, which as tuples would take twenty times as much.
        places: dict[str, array.array[int]] = {}
        ignored = 0
        for member in members(path):
            key, kind = _key(member.name)
            if not kind or not member.isreg() or member.issparse():
                ignored += 1
                continue
            _refuse_pickle(path, member.name, kind)
            if not keys or keys[-1] != key:
                keys.append(key)
            if len(keys) > MAX_ROWS:
                raise DatasetError(f"{path} has more than {MAX_ROWS:,} samples; allowed: at most that many")
            places.setdefault(kind, array.array("q")).extend((len(keys) - 1, member.offset_data, member.size))
        if not keys:
            raise DatasetError(f"{path} has no members such as KEY.jpg and KEY.cls; expected a WebDataset tar")
        kinds = {kind: _by_sample(found, len(keys)) for kind, found in places.items()}
        return cls(path=path, keys=pa.array(keys, pa.large_string()), kinds=kinds, ignored=ignored)

    @property
    def shown(self) -> str:
        return ", ".join(f".{kind}" for kind in list(self.kinds)[:20])

    def check_has(self, kind: str) -> None:
        """Raises DatasetError for a tar whose samples lack what those of another one have."""
        if kind not in self.kinds:
            raise DatasetError(f"{self.path} has no members .{kind} but {self.shown}; other tars of the data set have them")

    def has_at_most_one_of(self, kinds: Sequence[str]) -> bool:
        """Whether no sample has members of two of these kinds."""
        there = [self.kinds[kind][:, 0] >= 0 for kind in kinds if kind in self.kinds]
        return not there or bool((np.sum(there, axis=0) <= 1).all())

    def rows(self, kinds: Sequence[str], wanted: Indices) -> Iterator[Row]:
        """The images, which are members of any of these kinds."""
        own = [kind for kind in kinds if kind in self.kinds]
        with self.path.open("rb") as file:
            for row in map(int, wanted):
                kind = next((kind for kind in own if self.kinds[kind][row, 0] >= 0), None)
                data = b"" if kind is None else self._bytes(file, kind, row, most=MAX_BYTES + 1)
                yield row, data, f"{self.path.name}:{self.keys[row].as_py()}"

    def texts(self, kind: str, field: str | None) -> Iterator[str]:
        """The label of each sample: the text of a member, or a field of its JSON object."""
        with self.path.open("rb") as file:
            for row in range(len(self.keys)):
                where = f"{self.path}, {self.keys[row].as_py()}.{kind}"
                data = self._bytes(file, kind, row, most=_MAX_JSON + 1)
                yield _text(data, where) if field is None else _field(data, field, where)

    def json_fields(self) -> list[str]:
        """Of the first object."""
        with self.path.open("rb") as file:
            row = int(np.flatnonzero(self.kinds[JSON][:, 0] >= 0)[0])
            return list(
                _object(self._bytes(file, JSON, row, most=_MAX_JSON + 1), f"{self.path}, {self.keys[row].as_py()}.{JSON}")
            )

    def _bytes(self, file: io.BufferedReader, kind: str, row: int, *, most: int) -> bytes:
        """b"" for a member that is not there, or beyond the end of the file."""
        offset, size = self.kinds[kind][row].tolist()
        if offset < 0:
            return b""
        file.seek(offset)
        data = file.read(min(size, most))
        return data if len(data) == min(size, most) else b""


def members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The heads of all members, one at a time."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=cast(Any, _Heads(file)), mode="r:") as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError(f"the member {member.name[:200]!r} has a size of {member.size} bytes")
                yield member
                # The archive would keep all of them.
                cast(Any, tar).members = []
            # A head that is damaged or cut ends the listing as the end of the archive does.
            file.seek(cast(Any, tar).offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it is damaged or cut: its members do not end with the mark of an archive's end")
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, RecursionError) as error:
        raise DatasetError(f"{path} is not a readable, uncompressed tar ({first_line(error)}); unpack or repair it") from error


class _Heads:
    """A file from which only heads of members are read: a head that claims more bytes than `_MAX_HEAD` is refused before they are read."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEAD:
            raise tarfile.ReadError(f"the head of a member has {size:,} bytes; allowed: at most {_MAX_HEAD:,}")
        return self._file.read(size)

    def seek(self, place: int) -> int:
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()


def _key(name: str) -> tuple[str, str]:
    """As WebDataset: the key ends at the first dot of the last part of the name, and the kind is what follows, in lower case."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    # A hidden file, such as macOS puts beside each image.
    if base.startswith("."):
        return name, ""
    key, _, kind = base.partition(".")
    return f"{folder}{slash}{key}", kind.lower()


def _by_sample(found: array.array[int], count: int) -> NDArray[np.int64]:
    places = np.full((count, 2), -1, np.int64)
    rows = np.array(found, np.int64).reshape(-1, 3)
    places[rows[:, 0]] = rows[:, 1:]
    return places


def _refuse_pickle(path: Path, name: str, kind: str) -> None:
    if kind.rpartition(".")[2] in _PICKLES:
        raise DatasetError(
            f"{path} has the member {name[:200]!r}, which may be a pickle, and reading one runs what it says; allowed: images, .{CLASS} "
            f"and .{JSON}; write labels as one of these"
        )


def _text(data: bytes, where: str) -> str:
    try:
        text = data.decode().strip() if len(data) <= 4 * MAX_NAME else ""
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise DatasetError(f"{where} is missing or no short text in UTF-8; every image needs a label")
    return text


def _field(data: bytes, field: str, where: str) -> str:
    value = _object(data, where).get(field)
    if not isinstance(value, str | int):
        raise DatasetError(
            f"{where}: {field} is {json.dumps(value)[:80]}; allowed: a text or a whole number, or another --label-column"
        )
    return value if isinstance(value, str) else json.dumps(value)


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data) if data and len(data) <= _MAX_JSON else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DatasetError(f"{where} is missing or no JSON object of at most {_MAX_JSON // 2**20} MiB; every image needs a label")
    return value
