"""Augmentation of training batches: what is drawn for each image, on the CPU, and the batch that follows from it, on any device.

B images of a batch, or of a process's share of it, b of a part of it, H and W pixels as stored, h and w pixels as the model takes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoslim.core.recipe import AUGMENTATIONS
from autoslim.data.crop_steps import CropSteps, StepKinds
from autoslim.data.operations import Step, apply_steps, steps_of_parts
from autoslim.data.resample import Taps, bicubic_taps, normalise, planes, resample, shifted_taps
from autoslim.data.table import Indices
from autoslim.errors import RequestError

Pixels = NDArray[np.uint8]
Images = TypeVar("Images", Pixels, Tensor)

MAX_SHIFTED_SIDE = 64
"""Side in pixels up to which `light` shifts the image instead of rescaling a part of it, as is usual for images of CIFAR's size."""

_CACHED_VALUES = 2**19
"""Of stored images that a CPU takes through all steps at once: as float32, 2 MiB."""

SMALLEST = {"light": 0.6, "strong": 0.35, "deit": 0.08, "imagenet": 0.08}
"""The least share of the image's area that a crop may have."""

_STEPS = {
    "strong": StepKinds(operations=2, jitters=True, erases=True),
    # timm leaves the jitter out beside RandAugment, unless it is forced.
    "deit": StepKinds(operations=2, jitters=False, erases=True),
    "imagenet": StepKinds(operations=0, jitters=True, erases=False),
}
"""What is drawn for crops, by augmentation."""

_LOG_ASPECT = math.log(4 / 3)
"""Crops have aspect ratios of 3/4 to 4/3, as timm's."""


def check_augmentation(name: str) -> None:
    if name not in AUGMENTATIONS:
        raise RequestError(f"augmentation is {name!r}; allowed: {', '.join(AUGMENTATIONS)}")


def centre_crop(images_BHW3: Images, size: tuple[int, int]) -> Images:
    top, left = _centre((images_BHW3.shape[1], images_BHW3.shape[2]), size)
    return images_BHW3[:, top : top + size[0], left : left + size[1]]


def _centre(stored: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    return (stored[0] - size[0]) // 2, (stored[1] - size[1]) // 2


class Draws(NamedTuple):
    """What is random about a batch. The crops are `boxes_B4` of the stored images: left, top, right and bottom in pixels, where a shifted
    one may reach over the border. Those of `mirrored_B` are mirrored then, and the `steps` follow.
    """

    boxes_B4: Tensor
    mirrored_B: Tensor
    steps: tuple[Step, ...] = ()

    def moved(self, move: Callable[[Tensor], Tensor]) -> Draws:
        return Draws(move(self.boxes_B4), move(self.mirrored_B), tuple(step.moved(move) for step in self.steps))


class Augmentation:
    """The augmentation `name` of images that are `stored` in one size (H, W), for a model that takes another one, `size` (h, w).

    `none` takes the centre. `light` shifts small images, and takes a random part of larger ones; the others take a part of any and add what
    `CropSteps` draws. With `flip` all but `none` mirror half of the images.
    """

    def __init__(
        self,
        name: str,
        *,
        stored: tuple[int, int],
        size: tuple[int, int],
        flip: bool,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        check_augmentation(name)
        self._name, self._stored, self._size, self._flip, self._mean, self._std = name, stored, size, flip, mean, std
        self._shifts = name == "light" and max(size) <= MAX_SHIFTED_SIDE
        self._steps = CropSteps(size, mean, std, _STEPS[name]) if name in _STEPS else None

    def draw(self, generator: np.random.Generator, batch: int, rows: Indices) -> Draws:
        """For `rows` of a batch of `batch` images. Numbers are drawn for all of its images, so that they do not depend on the rows."""
        boxes_B4, mirrored_B = self._boxes(generator, batch)[rows], np.zeros(len(rows), np.bool_)
        if self._flip and self._name != "none":
            mirrored_B = generator.random(batch)[rows] < 0.5
        steps = () if self._steps is None else self._steps.draw(generator, batch, rows)
        return Draws(torch.from_numpy(boxes_B4.astype(np.float32)), torch.from_numpy(mirrored_B), steps)

    def __call__(self, images_BHW3: Tensor, draws: Draws) -> Tensor:
        """The batch as the model takes it, float32 (B, 3, h, w), of bytes on the device where the draws are."""
        batch, height, width, _ = images_BHW3.shape
        on_cpu = images_BHW3.device.type == "cpu"
        x_B3hw = _new_batch((batch, 3, *self._size)) if on_cpu else torch.empty(batch, 3, *self._size, device=images_BHW3.device)
        # On a CPU a few images at a time, whose values stay in its cache from one step to the next.
        part = max(1, _CACHED_VALUES // (height * width * 3)) if on_cpu else batch
        bounds = [*range(0, batch, part), batch]
        steps_of = [draws.steps] if len(bounds) == 2 else steps_of_parts(draws.steps, bounds)
        taps = None if self._name == "none" else self._taps(draws)
        for start, stop, steps in zip(bounds, bounds[1:], steps_of, strict=False):
            some = slice(start, stop)
            x_b3hw = x_B3hw[some]
            if taps is None:
                planes(centre_crop(images_BHW3[some], self._size), x_b3hw)
            else:
                resample(images_BHW3[some], taps[0].some(some), taps[1].some(some), x_b3hw)
            normalise(apply_steps(x_b3hw, steps), self._mean, self._std)
        return x_B3hw

    def _taps(self, draws: Draws) -> tuple[Taps, Taps]:
        """Of the rows and of the columns."""
        taps = shifted_taps if self._shifts else bicubic_taps
        left_right_B2, top_bottom_B2 = draws.boxes_B4[:, 0::2], draws.boxes_B4[:, 1::2]
        rows = taps(top_bottom_B2, self._size[0], self._stored[0])
        return rows, taps(left_right_B2, self._size[1], self._stored[1]).mirrored(draws.mirrored_B)

    def _boxes(self, generator: np.random.Generator, batch: int) -> NDArray[np.float64]:
        top, left = _centre(self._stored, self._size)
        if self._name != "none" and not self._shifts:
            return _parts(self._stored, SMALLEST[self._name], batch, generator)
        (height, width), top_B, left_B = self._size, np.full(batch, top), np.full(batch, left)
        if self._shifts:
            # By up to an eighth of the side in each direction.
            top_B = top + generator.integers(-(height // 8), height // 8, size=batch, endpoint=True)
            left_B = left + generator.integers(-(width // 8), width // 8, size=batch, endpoint=True)
        return np.stack([left_B, top_B, left_B + width, top_B + height], axis=1).astype(np.float64)


def _new_batch(shape: tuple[int, ...]) -> Tensor:
    """Memory of NumPy's, which asks the system for large pages: with PyTorch's, to be given the memory takes as long as to fill it."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _parts(stored: tuple[int, int], smallest: float, batch: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Random resized crops (Szegedy et al., 2015), (B, 4): parts with `smallest` to 1 of the image's area, in fractions of pixels."""
    height, width = stored
    area_B = generator.uniform(smallest, 1.0, batch) * height * width
    # Uniform in the logarithm: 3/4 and 4/3 are equally likely.
    aspect_B = np.exp(generator.uniform(-_LOG_ASPECT, _LOG_ASPECT, batch))
    # timm draws again for a box that does not fit; cutting it needs a known number of draws.
    w_B = np.minimum(np.sqrt(area_B * aspect_B), width)
    h_B = np.minimum(np.sqrt(area_B / aspect_B), height)
    left_B, top_B = generator.random(batch) * (width - w_B), generator.random(batch) * (height - h_B)
    return np.stack([left_B, top_B, np.minimum(left_B + w_B, width), np.minimum(top_B + h_B, height)], axis=1)
