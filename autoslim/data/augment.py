"""Augmentation of training batches: functions of the batch and a generator, uint8 (B, H, W, 3) in, uint8 (B, h, w, 3) out.

B images of a batch, H and W pixels as stored, h and w pixels as the model takes them.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from autoslim.core.recipe import AUGMENTATIONS
from autoslim.errors import RequestError

Pixels = NDArray[np.uint8]

MAX_SHIFTED_SIDE = 64
"""Side in pixels up to which `light` shifts the image instead of rescaling a part of it, as is usual for images of CIFAR's size."""

_LIGHT_SCALE = (0.6, 1.0)
_STRONG_SCALE = (0.35, 1.0)
"""Shares of the image's area that a crop may have."""

_LOG_ASPECT = math.log(4 / 3)
"""Crops have aspect ratios of 3/4 to 4/3, as timm's."""

_RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
_ERASE_SHARE = 0.25
_JITTER = 0.4
"""RandAugment's policy and the share of images with an erased rectangle are those of DeiT's recipe; the jitter is timm's default."""


def check_augmentation(name: str) -> None:
    if name not in AUGMENTATIONS:
        raise RequestError(f"augmentation is {name!r}; allowed: {', '.join(AUGMENTATIONS)}")


def centre_crop(images_BHW3: Pixels, size: tuple[int, int]) -> Pixels:
    top, left = ((have - want) // 2 for have, want in zip(images_BHW3.shape[1:3], size, strict=True))
    return images_BHW3[:, top : top + size[0], left : left + size[1]]


def light(images_BHW3: Pixels, size: tuple[int, int], flip: bool, generator: np.random.Generator) -> Pixels:
    """A random shift of small images, a random crop of larger ones; with `flip`, half of the images are mirrored."""
    if max(size) <= MAX_SHIFTED_SIDE:
        crops_Bhw3 = shift_crop(images_BHW3, size, generator)
    else:
        crops_Bhw3 = resized_crop(images_BHW3, size, _LIGHT_SCALE, generator)
    return _flip_half(crops_Bhw3, generator) if flip else crops_Bhw3


def _flip_half(images_Bhw3: Pixels, generator: np.random.Generator) -> Pixels:
    chosen_B = generator.random(len(images_Bhw3)) < 0.5
    images_Bhw3[chosen_B] = images_Bhw3[chosen_B, :, ::-1]
    return images_Bhw3


def shift_crop(images_BHW3: Pixels, size: tuple[int, int], generator: np.random.Generator) -> Pixels:
    """The centre crop, shifted by up to an eighth of its side in each direction; pixels outside the image are reflected at its border."""
    row_Bh = _shifted(images_BHW3.shape[1], size[0], len(images_BHW3), generator)
    column_Bw = _shifted(images_BHW3.shape[2], size[1], len(images_BHW3), generator)
    return images_BHW3[np.arange(len(images_BHW3))[:, None, None], row_Bh[:, :, None], column_Bw[:, None, :]]


def _shifted(have: int, want: int, batch: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """The stored rows (or columns) that each crop takes, (batch, want)."""
    start = (have - want) // 2 + generator.integers(-(want // 8), want // 8, size=batch, endpoint=True)
    # Mirrored at the first row here, and at the last one below.
    index = np.abs(start[:, None] + np.arange(want))
    last = have - 1
    mirrored: NDArray[np.int64] = last - np.abs(last - index)
    return mirrored


def resized_crop(
    images_BHW3: Pixels, size: tuple[int, int], scale: tuple[float, float], generator: np.random.Generator
) -> Pixels:
    """Random resized crop (Szegedy et al., 2015): a part of the image with `scale` of its area, resized to `size` by bicubic interpolation.

    It is timm's transform with a generator of its own: timm's draws from Python's global one, and so cannot run in threads.
    """
    batch, height, width = images_BHW3.shape[:3]
    area_B = generator.uniform(scale[0], scale[1], batch) * height * width
    # Uniform in the logarithm: 3/4 and 4/3 are equally likely.
    aspect_B = np.exp(generator.uniform(-_LOG_ASPECT, _LOG_ASPECT, batch))
    # timm draws again for a box that does not fit; cutting it needs a known number of draws.
    w_B = np.minimum(np.sqrt(area_B * aspect_B), width)
    h_B = np.minimum(np.sqrt(area_B / aspect_B), height)
    left_B, top_B = generator.random(batch) * (width - w_B), generator.random(batch) * (height - h_B)
    # Fractional boxes: Pillow interpolates within them, so that a crop is not rounded to whole pixels.
    boxes_B4 = np.stack([left_B, top_B, np.minimum(left_B + w_B, width), np.minimum(top_B + h_B, height)], axis=1)
    out_Bhw3 = np.empty((batch, *size, 3), np.uint8)
    for image, box, out in zip(images_BHW3, boxes_B4.tolist(), out_Bhw3, strict=True):
        out[:] = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=tuple(box)))
    return out_Bhw3


class Strong:
    """Random resized crop, flip, timm's RandAugment, colour jitter; `erase` is timm's random erasing, for normalised images.

    timm and torchvision draw from the process's global generators: call both methods inside `seeded_globals`.
    """

    def __init__(self, size: tuple[int, int], flip: bool, mean: tuple[float, ...]) -> None:
        # Imported here because timm takes seconds to import, and only `strong` needs it.
        from timm.data.auto_augment import rand_augment_transform
        from timm.data.random_erasing import RandomErasing
        from torchvision.transforms import ColorJitter

        self._size, self._flip = size, flip
        settings = {
            # This and the mean as timm's own training transform sets them.
            "translate_const": int(min(size) * 0.45),
            "img_mean": tuple(min(255, round(255 * value)) for value in mean),
            "interpolation": Image.Resampling.BICUBIC,
            # At a full 10, timm asks to keep 0 bits of a colour, which Pillow 13 refuses.
            "magnitude_max": 9.99,
        }
        self._steps: list[Any] = [rand_augment_transform(_RAND_AUGMENT, settings), ColorJitter(_JITTER, _JITTER, _JITTER)]
        self._erasing: Any = RandomErasing(_ERASE_SHARE, mode="pixel", device="cpu")

    def __call__(self, images_BHW3: Pixels, generator: np.random.Generator) -> Pixels:
        crops_Bhw3 = resized_crop(images_BHW3, self._size, _STRONG_SCALE, generator)
        if self._flip:
            _flip_half(crops_Bhw3, generator)
        for crop in crops_Bhw3:
            image = Image.fromarray(crop)
            for step in self._steps:
                image = step(image)
            crop[:] = np.asarray(image)
        return crops_Bhw3

    def erase(self, x_B3hw: torch.Tensor) -> torch.Tensor:
        """Replaces a rectangle of a quarter of the images (B, 3, h, w) by noise, in place."""
        self._erasing(x_B3hw)
        return x_B3hw


@contextlib.contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seeds the three global generators that timm draws from, and restores their states. Not for use beside other threads."""
    python, numpy_, torch_ = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which reaches for the GPUs
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)
        torch.set_rng_state(torch_)
