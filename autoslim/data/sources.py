"""From `DatasetSpec.source` to a `Source`: a Parquet file, a folder of either layout, or a built-in set."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from autoslim.data.folder import read_image_folder
from autoslim.data.parquet import files_in, read_file, read_folder, row_count
from autoslim.data.splits import split_off_count
from autoslim.data.table import Indices, Labels, Row, Source, Table, without_labels
from autoslim.errors import DatasetError

BUILTIN = ("digits",)
_DIGITS_TEST = 360


def open_source(source: str, *, seed: int, labelled: bool = True) -> Source:
    """Opens a source by its name or path; `./digits` is a folder of that name, `digits` the built-in data set.

    Where it is not `labelled`, images are all that is read: of folders at any depth, and of the column `image`.

    Raises:
        DatasetError: for a source that cannot be read, or has no labels where it needs some.
    """
    if source in BUILTIN:
        digits = _read_digits(seed)
        return digits if labelled else without_labels(digits)
    path = Path(source).expanduser()
    if path.is_file():
        return read_file(path, labelled=labelled)
    if not path.is_dir():
        raise DatasetError(
            f"data set {source!r} does not exist; allowed: a Parquet file, a folder with train.parquet or its shards, "
            f"a folder of image folders, or {', '.join(BUILTIN)}"
        )
    if files_in(path):
        return read_folder(path, labelled=labelled)
    return read_image_folder(path, labelled=labelled)


def count_images(source: str, *, most: int) -> int:
    """How many images `open_source` would have to list, without reading a label; counting ends above `most`. 0 for a built-in set.

    Raises:
        DatasetError: for a Parquet file that cannot be read.
    """
    path = Path(source).expanduser()
    if source in BUILTIN or not path.exists():
        return 0
    if path.is_file():
        return row_count(path)
    if files := files_in(path):
        return sum(row_count(file) for file in files)
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
