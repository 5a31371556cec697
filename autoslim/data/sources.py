"""From `DatasetSpec.source` to a `Source`: `LAYOUTS` are tried in their order, and the first that knows the file or folder reads it."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autoslim.data import hub, manifest, parquet, saved_arrow, tars
from autoslim.data.folder import read_image_folder
from autoslim.data.manifest_file import SUFFIXES
from autoslim.data.remote import fetched_token_labels, look_at, open_remote
from autoslim.data.shards import find_shards
from autoslim.data.splits import split_off_count
from autoslim.data.table import Indices, Labels, Row, Source, Table, without_labels
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError
from autoslim.storage import FORMS, is_uri

BUILTIN = ("digits",)
_DIGITS_TEST = 360


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which data sets come. `find` looks at names alone and returns what the layout is read from, or None for another layout.

    `count` says how many images there are, without reading any; counting may end above `most`. `choices` are the fields of `Wanted` that
    mean something to it.
    """

    name: str
    find: Callable[[Path, Wanted], Any]
    read: Callable[[Path, Any, Wanted], Source]
    count: Callable[[Path, Any, int], int]
    choices: tuple[str, ...] = ()


ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
"""Ends of names of files that have to be unpacked first."""

COLUMNS = ("image_column", "label_column")
FLAGS = {
    "image_column": "--image-column",
    "label_column": "--label-column",
    "config": "--data-config",
    "token_labels": "--token-labels",  # nosec B105 - a flag
}
"""Of the fields of `Wanted` that only some layouts have."""

_NAMED = {"config": "configurations", "token_labels": "labels of patches"}  # nosec B105 - words for users
"""What a layout has not that lacks one of these fields; columns otherwise."""


def _shards(suffix: str) -> Callable[[Path, Wanted], Any]:
    return lambda path, wanted: find_shards(path, suffix, wanted) if path.is_dir() else None


def _count(row_count: Callable[[Path, int], int], files: Iterable[Path], most: int) -> int:
    found = 0
    for path in files:
        found += row_count(path, most - found)
        if found > most:
            break
    return found


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="save_to_disk",
        find=lambda path, _: saved_arrow.find_saved(path) if path.is_dir() else None,
        read=saved_arrow.read_saved,
        count=lambda _, saved, most: _count(saved_arrow.row_count, itertools.chain(*saved.by_split.values()), most),
        choices=COLUMNS,
    ),
    Layout(
        name="Parquet shards",
        find=_shards(parquet.SUFFIX),
        read=parquet.read_shards,
        count=lambda _, shards, most: _count(parquet.row_count, shards.files, most),
        choices=(*COLUMNS, "config", "token_labels"),
    ),
    Layout(
        name="WebDataset",
        find=lambda path, wanted: tars.find_tars(path, wanted) if path.is_dir() else None,
        read=tars.read_shards,
        count=lambda _, shards, most: _count(tars.sample_count, shards.files, most),
        choices=(*COLUMNS, "config"),
    ),
    Layout(
        name="manifests",
        find=lambda path, wanted: manifest.find_manifests(path) if wanted.labelled and path.is_dir() else None,
        read=manifest.read_manifests,
        count=lambda _, found, most: _count(manifest.line_count, found.by_split.values(), most),
        choices=COLUMNS,
    ),
    Layout(
        name="image folder",
        find=lambda path, _: path if path.is_dir() else None,
        read=lambda path, _, wanted: _image_folder(path, wanted),
        count=lambda path, _, most: _count_files(path, most),
        choices=("token_labels",),
    ),
    Layout(
        name="manifest",
        find=lambda path, _: path if path.suffix.lower() in SUFFIXES else None,
        read=lambda path, _, wanted: manifest.read_manifest(path, wanted),
        count=lambda path, _, most: manifest.line_count(path, most),
        choices=COLUMNS,
    ),
    Layout(
        name="WebDataset tar",
        find=lambda path, _: path if path.suffix.lower() == tars.SUFFIX else None,
        read=lambda path, _, wanted: tars.read_tars([path], wanted),
        count=lambda path, _, most: tars.sample_count(path, most),
        choices=COLUMNS,
    ),
    # Last: a file of any other name has always been read as Parquet.
    Layout(
        name="Parquet file",
        find=lambda path, _: path if path.is_file() else None,
        read=lambda path, _, wanted: parquet.read_file(path, wanted),
        count=lambda path, _, most: parquet.row_count(path, most),
        choices=(*COLUMNS, "token_labels"),
    ),
)
"""In the order in which they are tried: the first that knows the names in a folder, or of a file, reads it."""


def open_source(source: str, *, seed: int, wanted: Wanted | None = None) -> Source:
    """Opens a source by its name, path or URI; `./digits` is a folder of that name, `digits` the built-in data set. Files at a URI are
    fetched first.

    Where no labels are wanted, images are all that is read: of folders at any depth, and of the column of images.

    Raises:
        DatasetError: for a source that cannot be read, has no labels where it needs some, or none of the columns or configurations that
            are wanted.
        StorageError, UnavailableError, OutputError: for a URI whose files cannot be fetched.
    """
    wanted = wanted or Wanted()
    if is_uri(source):
        return open_remote(source, look_at(source), functools.partial(open_source, seed=seed, wanted=wanted))
    if source in BUILTIN:
        _refuse_choices(source, "built-in data set", (), wanted)
        digits = _read_digits(seed)
        return digits if wanted.labelled else without_labels(digits)
    if source.startswith(hub.PREFIX):
        _refuse_choices(source, "data set of the Hugging Face hub", (*COLUMNS, "config"), wanted)
        return hub.read_hub(source, wanted)
    shards = tars.expand(source)
    if shards is not None:
        _refuse_choices(source, "WebDataset tars", COLUMNS, wanted)
        return tars.read_tars(shards, wanted)
    path = Path(source).expanduser()
    if path.name.lower().endswith(ARCHIVES):
        raise DatasetError(f"{path} is an archive; unpack it, and give the folder, or the .tar, as --data")
    if not path.exists():
        raise DatasetError(
            f"data set {source!r} does not exist; allowed: a Parquet file, a manifest ({', '.join(SUFFIXES)}), a WebDataset tar, a "
            f"folder with train.parquet or its shards, a folder of image folders, a folder that save_to_disk wrote, "
            f"hf:OWNER/NAME, {', '.join(FORMS.values())}, or {', '.join(BUILTIN)}"
        )
    layout, found = _layout(path, wanted)
    _refuse_choices(source, layout.name, layout.choices, wanted)
    return layout.read(path, found, wanted)


def _refuse_choices(source: str, layout: str, choices: tuple[str, ...], wanted: Wanted) -> None:
    """A flag that means nothing to a layout is a mistake about what lies there."""
    for name, flag in FLAGS.items():
        value = getattr(wanted, name)
        if value is not None and name not in choices:
            what = _NAMED.get(name, "columns")
            raise DatasetError(f"{flag} is {value!r}, but {source} is read as: {layout}, which has no {what}; leave {flag} out")


def _image_folder(root: Path, wanted: Wanted) -> Source:
    if wanted.token_label_column is not None:
        raise DatasetError(
            f"token_labels is {wanted.token_labels!r}, a column, but {root} is a folder of images; allowed: a folder (with a / in its "
            "name) that has <class>/<image>.pt for each of them"
        )
    with fetched_token_labels(wanted.token_label_folder) as labels:
        return read_image_folder(root, labelled=wanted.labelled, token_labels=labels)


def count_images(source: str, *, most: int, wanted: Wanted | None = None) -> int:
    """How many images `open_source` would have to list, without reading a label; counting ends above `most`. 0 for a built-in set.

    Raises:
        DatasetError: for a file that cannot be read.
    """
    path = Path(source).expanduser()
    if source in BUILTIN or not path.exists():
        return 0
    layout, found = _layout(path, wanted or Wanted())
    return layout.count(path, found, most)


def _layout(path: Path, wanted: Wanted) -> tuple[Layout, Any]:
    for layout in LAYOUTS:
        found = layout.find(path, wanted)
        if found is not None:
            return layout, found
    raise DatasetError(f"{path} is neither a file nor a folder; allowed: one of them")


def _count_files(path: Path, most: int) -> int:
    found = 0
    for _, _, names in os.walk(path, followlinks=False):
        found += len(names)
        if found > most:
            break
    return found


def _read_digits(seed: int) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8 by 8 pixels in 17 greys, as PNG; 360 of them are the test split."""
    # Imported here because scikit-learn takes a second to import, and only this set needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels_N = bunch.target.astype(np.int64)
    pixels_NHW = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    train, test = split_off_count(labels_N, _DIGITS_TEST, seed=seed, purpose="digits test")
    return Source(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        train=_digits_table("digits train", labels_N, pixels_NHW, train),
        test=_digits_table("digits test", labels_N, pixels_NHW, test),
    ).check()


def _digits_table(name: str, labels: Labels, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], chosen: Indices) -> Table:
    def rows(wanted: Indices) -> Iterator[Row]:
        for row in wanted.tolist():
            buffer = io.BytesIO()
            Image.fromarray(pixels[chosen[row]]).save(buffer, "PNG")
            yield row, buffer.getvalue(), f"digits:{chosen[row]}"

    return Table(name=name, labels=labels[chosen], rows=rows)
