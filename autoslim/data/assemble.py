"""From the files of each split to a `Source`: the classes of all files together, and one table a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from autoslim.data.labels import Coded, class_indices, class_names
from autoslim.data.path_list import PathList
from autoslim.data.table import EncodedTokenLabels, Indices, Row, Source, Table, joined
from autoslim.errors import DatasetError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a split, or its rows of a manifest. `classes` are the names that the file has for labels that are numbers; `files` are
    those of images that it names by their paths; `token_labels` are as in `Table`.
    """

    name: str
    labels: Coded
    rows: Callable[[Indices], Iterator[Row]]
    classes: tuple[str, ...] = ()
    files: Callable[[], Iterable[Path]] = tuple
    token_labels: Callable[[Indices], Iterator[EncodedTokenLabels]] | None = None


def assemble(
    name: str, parts: Mapping[str, Sequence[Part]], *, labelled: bool, files: Sequence[Path | PathList], **said: tuple[str, ...]
) -> Source:
    """The source of `parts` by split, of which train has to be one; `said` are the `not_used` and `chosen` of the source.

    Raises:
        DatasetError: where files disagree about the classes, or labels do not fit them.
    """
    every = [part for split in parts.values() for part in split]
    classes = _classes(name, parts["train"], every) if labelled else ()
    tables = {split: joined([_table(part, classes) for part in found], f"{name} ({split})") for split, found in parts.items()}
    if labelled and not classes:
        classes = _counted(tables["train"])
    return Source(
        name=name,
        classes=classes,
        labelled=labelled,
        train=tables["train"],
        validation=tables.get("validation"),
        test=tables.get("test"),
        files=tuple(files),
        **said,
    ).check()


def no_labels(count: int) -> Coded:
    """Of images alone: all 0."""
    return Coded(numbers=np.zeros(count, np.int64))


def _classes(name: str, train: Sequence[Part], every: Sequence[Part]) -> tuple[str, ...]:
    """Texts give their own names. Of numbers, those of the first file of train; the others must not name different ones."""
    texts = class_names([part.labels for part in every], name)
    if texts:
        return texts
    first = train[0]
    for part in every:
        if part.classes and first.classes and part.classes != first.classes:
            odd = sorted(set(part.classes) ^ set(first.classes)) or ["the same names in another order"]
            one, other = Path(part.name), Path(first.name)
            raise DatasetError(f"{one.name} and {other.name} in {one.parent} have different classes: {', '.join(odd[:5])}")
    return first.classes


def _table(part: Part, classes: tuple[str, ...]) -> Table:
    labels = class_indices(part.labels, classes)
    return Table(name=part.name, labels=labels, rows=part.rows, token_labels=part.token_labels)


def _counted(table: Table) -> tuple[str, ...]:
    """Labels as names, where nothing names the classes."""
    top = int(table.labels.max(initial=-1)) + 1
    # A label beyond the number of rows leaves some class empty, and a name for each would need too much memory.
    if top > len(table.labels) + 1:
        raise DatasetError(
            f"{table.name} has {len(table.labels)} rows but labels up to {top - 1}; without class names in the metadata "
            "labels must count up from 0, every class with some images"
        )
    return tuple(str(number) for number in range(top))
