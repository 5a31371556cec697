"""A few images for a picture: cropped as for the model, as bytes, without preparing the whole data set.

N images, H and W pixels as stored, h and w pixels as the model takes them, P pixels of one channel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim.core.job import DatasetSpec
from autoslim.data.augment import centre_crop
from autoslim.data.dataset import SPLITS, ImageSplit
from autoslim.data.decode import decode_rgb, fit, storage_size
from autoslim.data.prepare import make_splits
from autoslim.data.resample import normalise, planes
from autoslim.data.sources import open_source
from autoslim.data.table import Indices, Labels, Row
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """`pixels` are uint8 RGB (N, h, w, 3), `labels` index `classes`."""

    pixels: NDArray[np.uint8]
    labels: Labels
    classes: tuple[str, ...]

    def tensor(self, *, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        """The model's input (N, 3, h, w), equal to the batch that `Loader` makes of these images."""
        return normalise(planes(torch.from_numpy(self.pixels)), mean, std)


def sample_split(split: ImageSplit, classes: tuple[str, ...], image_size: tuple[int, int], count: int) -> Sample:
    """Up to `count` images of a prepared split, spread over its classes; always the same ones."""
    chosen = spread(split.labels, count)
    return Sample(pixels=centre_crop(split.images(chosen), image_size), labels=split.labels[chosen], classes=classes)


def sample_source(
    spec: DatasetSpec, split: str, image_size: tuple[int, int], crop_pct: float, count: int, *, seed: int
) -> Sample:
    """As `sample_split`, from a source that is split as `prepare_dataset` does; only the images that are shown are read.

    Raises:
        DatasetError: for a source that cannot be read, or a split without a readable image.
    """
    assert split in SPLITS
    source = open_source(spec.source, seed=seed, wanted=Wanted.of(spec))
    part = make_splits(spec, source, seed)[split]
    labels, size = part.table.labels[part.rows], storage_size(image_size, crop_pct)
    left: Indices = np.arange(len(labels))
    # Draws again without the unreadable images until all that are drawn can be read.
    while len(left):
        chosen = left[spread(labels[left], count)]
        images = _readable(part.table.rows(np.sort(part.rows[chosen])), size)
        unreadable = [number for number in chosen.tolist() if int(part.rows[number]) not in images]
        if not unreadable:
            stored = np.stack([images[int(part.rows[number])] for number in chosen])
            return Sample(pixels=centre_crop(stored, image_size), labels=labels[chosen], classes=source.classes)
        left = np.setdiff1d(left, np.array(unreadable))
    raise DatasetError(f"the {split} split of {source.name} has no readable image")


def _readable(rows: Iterator[Row], size: tuple[int, int]) -> dict[int, NDArray[np.uint8]]:
    images = {}
    for row, data, _ in rows:
        try:
            images[int(row)] = fit(decode_rgb(data), size)
        except DatasetError:
            # Another image of the class takes its place, since a prepared data set leaves damaged images out, too.
            continue
    return images


def spread(labels: Labels, count: int) -> Indices:
    """Indices of `count` images with equal numbers of each class, or of evenly spaced classes where these are more than `count`."""
    order = np.argsort(labels, kind="stable")
    present, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    # The position of an image within its class; sorted by it, the first of every class come first, then the second ones, and so on.
    turn = np.empty(len(labels), np.int64)
    turn[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    numbers = np.lexsort((labels, turn))
    if count < len(present):
        shown = present[np.arange(count) * len(present) // count]
        numbers = numbers[np.isin(labels[numbers], shown)]
    return numbers[:count]
