"""`CalibrationImages`: what eight-bit forms are made with. None of them is a test image.

Shapes: N training images, M validation images, 3 colour channels, H height, W width.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from autoslim.data import ImageSplit, PreparedDataset, Sample
from autoslim.data.augment import centre_crop
from autoslim.export.artifact import SlimConfig

CALIBRATION_IMAGES = 128
"""Training images whose activations set the ranges: the ranges of a vision transformer change little beyond a hundred images, and every one
takes a pass of the graph with all its activations."""

CHOICE_IMAGES = 512
"""Validation images that choose between candidates: enough to tell them a point of the same answers apart, few enough for memory at 224
pixels (0.3 GB)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Normalised images: of the training split for the ranges of activations, of the validation split for the choice."""

    train_N3HW: Tensor
    validation_M3HW: Tensor


def draw_calibration(dataset: PreparedDataset, config: SlimConfig, *, seed: int) -> CalibrationImages:
    """Drawn without replacement, the same ones for the same seed."""
    splits = dataset.splits(config.shape.image_size, config.preprocessing.crop_pct)
    return CalibrationImages(
        train_N3HW=_draw(splits.train, CALIBRATION_IMAGES, config, seed),
        validation_M3HW=_draw(splits.validation, CHOICE_IMAGES, config, seed),
    )


def _draw(split: ImageSplit, count: int, config: SlimConfig, seed: int) -> Tensor:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(split))[:count])
    pixels = centre_crop(split.images(chosen), config.shape.image_size)
    sample = Sample(pixels=pixels, labels=split.labels[chosen], classes=config.classes)
    return sample.tensor(mean=config.preprocessing.mean, std=config.preprocessing.std)
