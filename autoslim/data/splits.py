"""Stratified, seeded cuts: which images of a table go to which split. N counts images, C classes."""

from __future__ import annotations

import zlib

import numpy as np

from autoslim.data.table import Indices, Labels
from autoslim.errors import DatasetError


def cut_share(labels: Labels, share: float, *, seed: int, purpose: str, classes: tuple[str, ...]) -> tuple[Indices, Indices]:
    """Numbers of the images that stay and of those cut off, both ascending; every class is in both."""
    if not 0.0 < share < 1.0:
        raise DatasetError(f"validation_share is {share}; allowed: above 0 and below 1")
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        name = classes[int(counts.argmin())]
        raise DatasetError(f"class {name!r} has {counts.min()} image left to cut {purpose} from; needed: at least 2")
    return cut_count(labels, round(share * len(labels)), seed=seed, purpose=purpose)


def cut_count(labels: Labels, count: int, *, seed: int, purpose: str) -> tuple[Indices, Indices]:
    """As `cut_share`, for `count` images; more or fewer only where a class could not be in both parts otherwise."""
    given = _allocate(np.bincount(labels), count, spare=1)
    chosen = _draw(labels, given, seed, purpose)
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def keep_count(labels: Labels, count: int, *, seed: int, classes: tuple[str, ...]) -> Indices:
    """Numbers of `count` images, ascending, with every class among them."""
    if count < len(classes):
        raise DatasetError(f"train_limit is {count}; allowed: at least {len(classes)}, one image of each class")
    if count >= len(labels):
        return np.arange(len(labels))
    return _draw(labels, _allocate(np.bincount(labels), count, spare=0), seed, "train limit")


def _draw(labels: Labels, given: Indices, seed: int, purpose: str) -> Indices:
    # The purpose keeps the cuts of one job independent of each other.
    generator = np.random.default_rng([seed, zlib.crc32(purpose.encode())])
    drawn = [generator.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(given)]
    chosen: Indices = np.sort(np.concatenate(drawn))
    return chosen


def _allocate(counts: Indices, total: int, *, spare: int) -> Indices:
    """How many images of each class (C,) to draw: proportional, at least 1, leaving `spare`; sums to `total` where it can."""
    target = counts * (total / counts.sum())
    upper = counts - spare
    # Rounded down, but at least one image of each class, and no more than the class can spare.
    given: Indices = np.clip(np.floor(target).astype(np.int64), 1, np.maximum(upper, 1))
    while (short := total - int(given.sum())) != 0:
        step = 1 if short > 0 else -1
        room = given < upper if step > 0 else given > 1
        if not room.any():
            break
        # One image at a time to the class that is farthest below its target, or from the one that is farthest above it.
        given[np.argmax(np.where(room, step * (target - given), -np.inf))] += step
    return given
