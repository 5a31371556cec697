"""Stratified, seeded splits: which images of a table go to which split. N images, C classes."""

from __future__ import annotations

import zlib

import numpy as np

from autoslim.data.table import Indices, Labels
from autoslim.errors import DatasetError


def split_off_share(
    labels: Labels, share: float, *, seed: int, purpose: str, classes: tuple[str, ...]
) -> tuple[Indices, Indices]:
    """Splits off about `share` of the images.

    Args:
        labels: Class indices (N,).
        purpose: The name of the split, such as `test`. Draws for two purposes are independent, although the seed is the same.

    Returns:
        Indices of the images that stay and of those split off, both ascending; every class is in both.

    Raises:
        DatasetError: for a share that is not between 0 and 1, or a class with fewer than two images.
    """
    given = share_counts(np.bincount(labels, minlength=len(classes)), share, purpose=purpose, classes=classes)
    chosen = _draw(labels, given, seed, purpose)
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def share_counts(counts: Indices, share: float, *, purpose: str, classes: tuple[str, ...]) -> Indices:
    """How many images of each class (C,) `split_off_share` splits off, from the `counts` (C,) that there are; the seed does not matter.

    Raises:
        DatasetError: as `split_off_share`.
    """
    if not 0.0 < share < 1.0:
        raise DatasetError(f"validation_share is {share}; allowed: above 0 and below 1")
    if counts.min() < 2:
        what = f"class {classes[int(counts.argmin())]!r}" if classes else "the data set"
        raise DatasetError(f"{what} has {counts.min()} image left to take {purpose} from; needed: at least 2")
    return _allocate(counts, round(share * int(counts.sum())), spare=1)


def split_off_count(labels: Labels, count: int, *, seed: int, purpose: str) -> tuple[Indices, Indices]:
    """As `split_off_share`, for `count` images, or as many as are needed for every class to be in both parts."""
    allocated = _allocate(np.bincount(labels), count, spare=1)
    drawn_rows = _draw(labels, allocated, seed, purpose)
    return np.setdiff1d(np.arange(len(labels)), drawn_rows), drawn_rows


def keep_count(labels: Labels, count: int, *, seed: int, classes: tuple[str, ...]) -> Indices:
    """Indices of `count` images, ascending; every class is among them. Raises DatasetError when there are more classes than `count`."""
    if count < len(classes):
        raise DatasetError(f"train_limit is {count}; allowed: at least {len(classes)}, one image of each class")
    if count >= len(labels):
        return np.arange(len(labels))
    return _draw(labels, _allocate(np.bincount(labels), count, spare=0), seed, "train limit")


def _draw(labels: Labels, allocated: Indices, seed: int, purpose: str) -> Indices:
    # The purpose makes the draws of one job independent: the test images do not decide the validation images.
    generator = np.random.default_rng([seed, zlib.crc32(purpose.encode())])
    # The rows of each class in rising order, by one sort: to look for every class would read the labels a thousand times.
    ends = np.cumsum(np.bincount(labels, minlength=len(allocated)))
    of_classes = np.split(np.argsort(labels, kind="stable"), ends[:-1])
    drawn = [generator.permutation(rows)[:count] for rows, count in zip(of_classes, allocated, strict=True)]
    drawn_rows: Indices = np.sort(np.concatenate(drawn))
    return drawn_rows


def _allocate(counts: Indices, total: int, *, spare: int) -> Indices:
    """Images to draw of each class (C,): proportional to `counts`, at least 1, at most all but `spare`; the sum is `total` if possible."""
    wanted = counts * (total / counts.sum())
    upper = counts - spare
    # Rounded down, but at least one image of each class, and no more than the class can spare.
    allocated: Indices = np.clip(np.floor(wanted).astype(np.int64), 1, np.maximum(upper, 1))
    while (short := total - int(allocated.sum())) != 0:
        # The lower bound of 1 may have given out too many: then one is taken back.
        step = 1 if short > 0 else -1
        room = allocated < upper if step > 0 else allocated > 1
        if not room.any():
            break
        # One image at a time to the class that is farthest below its share, or from the one that is farthest above it.
        allocated[np.argmax(np.where(room, step * (wanted - allocated), -np.inf))] += step
    return allocated
