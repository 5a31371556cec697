"""The common form of all sources: labels in memory, encoded images as a stream. N images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoslim.data.file_stamps import FileStamp, stamp_of, stamps_of
from autoslim.data.path_list import PathList
from autoslim.errors import DatasetError

NEEDS_LABELS = "images without labels are for `--objective features` alone"
"""What errors about missing labels end with."""

Labels = NDArray[np.int64]
"""Class indices (N,)."""

Indices = NDArray[np.int64]
"""Indices of images within a table or split (N,)."""

Row = tuple[int, bytes, str]
"""Row index, the encoded image, and its name in reports."""

EncodedTokenLabels = tuple[bytes, str]
"""The labels of an image's patches as they are stored (`token_label_file`), b"" where there are none, and their name in reports."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One split of a source; `rows` streams the rows at the given ascending indices, a missing image as b"", and `token_labels` the labels
    of their patches, where there are any."""

    name: str
    labels: Labels
    rows: Callable[[Indices], Iterator[Row]]
    token_labels: Callable[[Indices], Iterator[EncodedTokenLabels]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The splits of a source; one that is None is split off `train`. From `files`, single ones and lists of them, a changed source is
    recognized; `not_used` says what lies beside them and is left out, and `chosen` what was taken without being asked for, such as the
    only column that can hold the labels.

    One that is not `labelled` has no classes, and its labels are all 0.
    """

    name: str
    classes: tuple[str, ...]
    train: Table
    validation: Table | None = None
    test: Table | None = None
    files: tuple[Path | PathList, ...] = ()
    labelled: bool = True
    not_used: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()

    def tables(self) -> tuple[Table, ...]:
        return tuple(table for table in (self.train, self.validation, self.test) if table is not None)

    def fingerprint(self) -> Iterator[FileStamp]:
        """Of every file; empty for a built-in data set."""
        for one in self.files:
            if isinstance(one, PathList):
                yield from stamps_of(one)
            else:
                yield str(one), *stamp_of(str(one))

    def check(self) -> Source:
        """Raises DatasetError unless labels, classes and splits agree; returns self."""
        if self.labelled:
            self._check_labels()
        for table in self.tables():
            if len(table.labels) == 0:
                raise DatasetError(f"{table.name} has no images")
        return self

    def _check_labels(self) -> None:
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise DatasetError(f"{self.name} has the classes {_named(self.classes)}; needed: at least two, all different")
        for table in self.tables():
            _check_range(table, len(self.classes))
        _check_filled(self.train, self.classes)
        if self.validation is not None:
            _check_filled(self.validation, self.classes)


def joined(tables: Sequence[Table], name: str) -> Table:
    """The rows of several tables, one after the other."""
    if len(tables) == 1:
        return tables[0]
    ends = np.cumsum([len(table.labels) for table in tables])

    def shares(wanted: Indices) -> Iterator[tuple[Table, int, Indices]]:
        # They are sorted: those of a table are a slice.
        stops = np.searchsorted(wanted, ends)
        for table, end, start, stop in zip(tables, ends.tolist(), [0, *stops.tolist()], stops.tolist(), strict=False):
            if start < stop:
                first = end - len(table.labels)
                yield table, first, wanted[start:stop] - first

    def rows(wanted: Indices) -> Iterator[Row]:
        for table, first, own in shares(wanted):
            yield from ((row + first, data, label) for row, data, label in table.rows(own))

    def token_labels(wanted: Indices) -> Iterator[EncodedTokenLabels]:
        for table, _, own in shares(wanted):
            assert table.token_labels is not None
            yield from table.token_labels(own)

    return Table(
        name=name,
        labels=np.concatenate([table.labels for table in tables]),
        rows=rows,
        token_labels=None if any(table.token_labels is None for table in tables) else token_labels,
    )


def without_labels(source: Source) -> Source:
    """The images of a source alone."""
    train, validation, test = (
        None if table is None else dataclasses.replace(table, labels=np.zeros_like(table.labels))
        for table in (source.train, source.validation, source.test)
    )
    assert train is not None
    return dataclasses.replace(source, classes=(), labelled=False, train=train, validation=validation, test=test)


def _named(classes: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in classes[:20]) or "(none)"


def _check_range(table: Table, classes: int) -> None:
    wrong = np.flatnonzero((table.labels < 0) | (table.labels >= classes))
    if len(wrong):
        row = int(wrong[0])
        raise DatasetError(f"{table.name}, row {row}: label {table.labels[row]} is not a class; allowed: 0 to {classes - 1}")


def _check_filled(table: Table, classes: tuple[str, ...]) -> None:
    empty = np.flatnonzero(np.bincount(table.labels, minlength=len(classes)) == 0)
    if len(empty):
        raise DatasetError(f"{table.name} has no image of class {classes[empty[0]]!r} (label {empty[0]}); every class needs some")
