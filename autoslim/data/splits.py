"""Stratified, seeded splits: which images of a table go to which split. N images, C classes."""

from __future__ import annotations

import zlib

import numpy as np

from autoslim.data.table import Indices, Labels
from autoslim.errors import DatasetError


def cut_share(labels: Labels, share: float, *, seed: int, purpose: str, classes: tuple[str, ...]) -> tuple[Indices, Indices]:
    """Splits off about `share` of the images.

    Args:
        labels: Class indices (N,).
        purpose: What the images are for; two purposes draw independently from the same seed.

    Returns:
        Indices of the images that stay and of those split off, both ascending; every class is in both.

    Raises:
        DatasetError: for a share outside of 0 to 1, or a class with fewer than two images.
    """
    given = share_counts(np.bincount(labels, minlength=len(classes)), share, purpose=purpose, classes=classes)
    chosen = _draw(labels, given, seed, purpose)
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def share_counts(counts: Indices, share: float, *, purpose: str, classes: tuple[str, ...]) -> Indices:
    """How many images of each class (C,) `cut_share` splits off, from the `counts` (C,) that there are; the seed does not matter.

    Raises:
        DatasetError: as `cut_share`.
    """
    if not 0.0 < share < 1.0:
        raise DatasetError(f"validation_share is {share}; allowed: above 0 and below 1")
    if counts.min() < 2:
        name = classes[int(counts.argmin())]
        raise DatasetError(f"class {name!r} has {counts.min()} image left to cut {purpose} from; needed: at least 2")
    return _allocate(counts, round(share * int(counts.sum())), spare=1)


def cut_count(labels: Labels, count: int, *, seed: int, purpose: str) -> tuple[Indices, Indices]:
    """As `cut_share`, for `count` images, or as many as are needed for every class to be in both parts."""
    given = _allocate(np.bincount(labels), count, spare=1)
    chosen = _draw(labels, given, seed, purpose)
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def keep_count(labels: Labels, count: int, *, seed: int, classes: tuple[str, ...]) -> Indices:
    """Indices of `count` images, ascending; every class is among them. Raises DatasetError when there are more classes than `count`."""
    if count < len(classes):
        raise DatasetError(f"train_limit is {count}; allowed: at least {len(classes)}, one image of each class")
    if count >= len(labels):
        return np.arange(len(labels))
    return _draw(labels, _allocate(np.bincount(labels), count, spare=0), seed, "train limit")


def _draw(labels: Labels, given: Indices, seed: int, purpose: str) -> Indices:
    # The purpose makes the draws of one job independent: the test images do not decide the validation images.
    generator = np.random.default_rng([seed, zlib.crc32(purpose.encode())])
    drawn = [generator.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(given)]
    chosen: Indices = np.sort(np.concatenate(drawn))
    return chosen


def _allocate(counts: Indices, total: int, *, spare: int) -> Indices:
    """Images to draw of each class (C,): proportional to `counts`, at least 1, at most all but `spare`; the sum is `total` if possible."""
    target = counts * (total / counts.sum())
    upper = counts - spare
    # Rounded down, but at least one image of each class, and no more than the class can spare.
    given: Indices = np.clip(np.floor(target).astype(np.int64), 1, np.maximum(upper, 1))
    while (short := total - int(given.sum())) != 0:
        # The lower bound of 1 may have given out too many: then one is taken back.
        step = 1 if short > 0 else -1
        room = given < upper if step > 0 else given > 1
        if not room.any():
            break
        # One image at a time to the class that is farthest below its target, or from the one that is farthest above it.
        given[np.argmax(np.where(room, step * (target - given), -np.inf))] += step
    return given
