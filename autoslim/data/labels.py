"""Labels as sources hold them, numbers or texts, and the class indices that they become. N images of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from autoslim.data.table import Labels
from autoslim.errors import DatasetError

MAX_CLASSES = 100_000
"""Different texts of a label column: far above the 21,841 classes of the whole ImageNet, and a bound against a column of captions."""

MAX_NAME = 256
"""Characters of a class name, which is kept in every model's config.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coded:
    """Labels of one file. `numbers` (N,) index `names`; without names they are class indices themselves."""

    numbers: Labels
    names: tuple[str, ...] | None = None


def coded_column(column: Any, where: str) -> Coded:
    """Of an Arrow column (`ChunkedArray`) of whole numbers, texts or truth values, also dictionary-encoded; `where` names it in errors.

    Raises:
        DatasetError: for another type, a missing label, or texts that cannot be class names.
    """
    kind = column.type
    _check_values(column, where)
    if pa.types.is_integer(kind):
        return Coded(numbers=_as_numbers(column, where))
    if pa.types.is_dictionary(kind) and pa.types.is_integer(kind.value_type):
        return Coded(numbers=_as_numbers(column.cast(kind.value_type), where))
    if pa.types.is_boolean(kind):
        column = column.cast(pa.string())
    if not can_be_labels(kind):
        raise DatasetError(f"{where} is {kind}; allowed: one whole number or one text an image; name another with --label-column")
    # Texts stay in their dictionary: a file of a few kB may repeat one long text for millions of rows.
    encoded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
    chunks = encoded.unify_dictionaries().chunks
    names = chunks[0].dictionary.to_pylist() if chunks else []
    numbers = [np.asarray(chunk.indices.to_numpy(zero_copy_only=False), np.int64) for chunk in chunks]
    return _without_unused(np.concatenate([np.empty(0, np.int64), *numbers]), names, where)


def coded_texts(texts: Iterable[str], where: str) -> Coded:
    """Of one text an image."""
    places: dict[str, int] = {}
    numbers = np.fromiter((places.setdefault(text, len(places)) for text in texts), np.int64)
    return _without_unused(numbers, list(places), where)


def can_be_labels(kind: Any) -> bool:
    """Whether a column of this Arrow type may hold one label an image."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_integer(inner)
        or pa.types.is_string(inner)
        or pa.types.is_large_string(inner)
        or (inner is kind and pa.types.is_boolean(kind))
    )


def class_names(parts: Sequence[Coded], where: str) -> tuple[str, ...]:
    """The texts of all files, sorted; as numbers where all of them are whole numbers. Empty where labels are numbers.

    Raises:
        DatasetError: where one file has texts and another one numbers.
    """
    kinds = {part.names is None for part in parts if len(part.numbers)}
    if kinds == {True, False}:
        raise DatasetError(f"{where} has labels that are numbers in one file and texts in another; allowed: one kind")
    found = {name for part in parts for name in part.names or ()}
    # "10" comes after "9": classes that are numbered stay in the order of their numbers.
    return tuple(sorted(found, key=int) if all(_is_number(name) for name in found) else sorted(found))


def class_indices(part: Coded, classes: tuple[str, ...]) -> Labels:
    """The labels (N,) of one file as indices of `classes`."""
    if part.names is None:
        return part.numbers
    places = {name: place for place, name in enumerate(classes)}
    return np.array([places[name] for name in part.names], np.int64)[part.numbers]


def _without_unused(numbers: Labels, names: list[str | None], where: str) -> Coded:
    """A dictionary may name classes that no row has; no image of them is missing."""
    used, places = np.unique(numbers, return_inverse=True)
    if len(used) > MAX_CLASSES:
        raise DatasetError(f"{where} has {len(used):,} different texts; allowed: at most {MAX_CLASSES:,} classes")
    found = [names[number] for number in used.tolist()]
    for name in found:
        if not name or not name.strip() or len(name) > MAX_NAME:
            shown = "is missing or empty" if not name or not name.strip() else f"has {len(name):,} characters ({name[:40]!r}...)"
            raise DatasetError(f"{where}: a label {shown}; allowed: a class name of 1 to {MAX_NAME} characters")
    return Coded(numbers=places.astype(np.int64), names=tuple(name for name in found if name is not None))


def _as_numbers(column: Any, where: str) -> Labels:
    try:
        column = column.cast(pa.int64())
    except pa.ArrowException as error:
        raise DatasetError(f"{where} has numbers beyond 64 bits ({error}); allowed: class indices from 0 up") from error
    return np.asarray(column.to_numpy(), np.int64)


def _check_values(column: Any, where: str) -> None:
    try:
        # Texts in UTF-8, and indices within their dictionary.
        column.validate(full=True)
    except pa.ArrowException as error:
        raise DatasetError(f"{where} is damaged ({error}); write the file again") from error
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DatasetError(f"{where}, row {row}: the label is null; every image needs one")


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 19 and str(int(name)) == name
