"""What augmentations draw for the images of a batch beside their crops: timm's RandAugment `rand-m9-mstd0.5-inc1`, timm's colour jitter,
and an erased rectangle. DeiT's recipe (Touvron et al., 2021) has the first and the last, timm's default the jitter, `strong` all three.

B images of the whole batch, b of the rows that this process prepares, h and w pixels as the model takes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim.data.operations import Step
from autoslim.data.table import Indices

Values = NDArray[np.float64]

_APPLIED = 0.5
"""The share of the operations drawn for an image that is applied."""

_MAGNITUDE, _DEVIATION = 9.0, 0.5
"""Of 10: how strong an operation is, and how much that varies."""

_JITTER = 0.4
"""timm's default: factors of brightness, contrast and saturation are from 0.6 to 1.4."""

_JITTERED = ("brightness", "contrast", "saturation")

_ERASED_SHARE = 0.25
_ERASED_AREA, _ERASED_ASPECT = (0.02, 1 / 3), math.log(1 / 0.3)
"""Of the images; of an image's area; the logarithm of the most that the rectangle is higher than wide, or wider than high."""


class StepKinds(NamedTuple):
    """How many of RandAugment's operations an image has, and whether its colours are jittered behind them, and a part of it erased."""

    operations: int
    jitters: bool
    erases: bool


class CropSteps:
    """Draws steps for crops of one `size` (h, w); `mean` and `std` are the model's."""

    def __init__(self, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...], kinds: StepKinds) -> None:
        self._kinds = kinds
        self._size, self._mean_3, self._std_3 = size, 255 * np.array(mean), 255 * np.array(std)

    def draw(self, generator: np.random.Generator, batch: int, rows: Indices) -> tuple[Step, ...]:
        """The steps for `rows` of a batch. Numbers are drawn for all of its images, so that they do not depend on the rows."""
        steps = [step for _ in range(self._kinds.operations) for step in self._layer(generator, batch, rows)]
        if self._kinds.jitters:
            factors = [(name, generator.uniform(1 - _JITTER, 1 + _JITTER, batch)) for name in _JITTERED]
            steps += [Step(name, None, (_tensor(factor_B[rows]),)) for name, factor_B in factors]
        if self._kinds.erases:
            steps += self._erasing(generator, batch, rows)
        return tuple(steps)

    def _layer(self, generator: np.random.Generator, batch: int, rows: Indices) -> Iterator[Step]:
        chosen_b, applied_b, sign_b = (generator.random(batch)[rows] for _ in range(3))
        level_b = generator.normal(_MAGNITUDE, _DEVIATION, batch)[rows]
        # At a full 10, posterizing would leave no bit of a colour.
        operations = self._operations(level_b.clip(0, 9.99) / 10, np.where(sign_b < 0.5, 1.0, -1.0))
        number_b = (chosen_b * len(operations)).astype(np.int64)
        for number, (name, *values) in enumerate(operations):
            found = np.flatnonzero((number_b == number) & (applied_b < _APPLIED))
            if len(found):
                yield Step(name, torch.from_numpy(found), tuple(_tensor(value_b[found]) for value_b in values))

    def _operations(self, level_b: Values, sign_b: Values) -> list[tuple[Any, ...]]:
        """timm's fifteen operations with their values, (b, ...): stronger with the level, from 0 to 1, and in either direction."""
        height, width = self._size
        # Not below 0.1: an image must not become all grey.
        factor_b = np.maximum(0.1, 1 + 0.9 * level_b * sign_b)
        shear_b, moved_b, turned_b = 0.3 * level_b * sign_b, 0.45 * level_b * sign_b, np.radians(30 * level_b * sign_b)
        fill_b3 = np.broadcast_to(self._mean_3, (len(level_b), 3))
        return [
            ("autocontrast",),
            ("equalize",),
            ("invert",),
            (
                "affine",
                self._matrices(xx=np.cos(turned_b), xy=-np.sin(turned_b), yx=np.sin(turned_b), yy=np.cos(turned_b)),
                fill_b3,
            ),
            # What is left are 4 bits and fewer.
            ("posterize", 2.0 ** (4 + np.floor(4 * level_b))),
            ("solarize", 256 - np.floor(256 * level_b)),
            ("solarize_add", np.floor(110 * level_b)),
            ("saturation", factor_b),
            ("contrast", factor_b),
            ("brightness", factor_b),
            ("sharpness", factor_b),
            # The first row, and the first column, stay in their place.
            ("affine", self._matrices(xy=shear_b, dx=shear_b * height / 2), fill_b3),
            ("affine", self._matrices(yx=shear_b, dy=shear_b * width / 2), fill_b3),
            ("affine", self._matrices(dx=moved_b * width), fill_b3),
            ("affine", self._matrices(dy=moved_b * height), fill_b3),
        ]

    def _matrices(
        self, *, xx: Any = 1.0, xy: Any = 0.0, dx: Any = 0.0, yx: Any = 0.0, yy: Any = 1.0, dy: Any = 0.0
    ) -> NDArray[np.float64]:
        """From the pixels of the result to where they come from, given in pixels from the middle: (b, 2, 3) as `affine_grid` takes them,
        where each side goes from -1 to 1."""
        height, width = self._size
        scale_23 = np.array([[1, height / width, 2 / width], [width / height, 1, 2 / height]])
        matrices: NDArray[np.float64] = (
            np.stack(np.broadcast_arrays(xx, xy, dx, yx, yy, dy), axis=-1).reshape(-1, 2, 3) * scale_23
        )
        return matrices

    def _erasing(self, generator: np.random.Generator, batch: int, rows: Indices) -> Iterator[Step]:
        height, width = self._size
        chosen_b = np.flatnonzero(generator.random(batch)[rows] < _ERASED_SHARE)
        area_b = generator.uniform(*_ERASED_AREA, batch)[rows] * height * width
        aspect_b = np.exp(generator.uniform(-_ERASED_ASPECT, _ERASED_ASPECT, batch)[rows])
        # timm draws again for a rectangle that does not fit; cutting it needs a known number of draws.
        h_b = np.minimum(np.round(np.sqrt(area_b * aspect_b)), height)
        w_b = np.minimum(np.round(np.sqrt(area_b / aspect_b)), width)
        top_b, left_b = (np.floor(generator.random(batch)[rows] * (most_b + 1)) for most_b in (height - h_b, width - w_b))
        boxes_b4 = np.stack([top_b, left_b, h_b, w_b], axis=1)[chosen_b]
        # One for the batch, of which each image shows another part: to draw noise for every image would take as long as all the rest.
        noise_3hw = (
            generator.standard_normal((3, height, width), np.float32) * self._std_3[:, None, None] + self._mean_3[:, None, None]
        )
        if len(chosen_b):
            yield Step("erase", torch.from_numpy(chosen_b), (_tensor(boxes_b4),), (_tensor(noise_3hw),))


def _tensor(value: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value, np.float32))
