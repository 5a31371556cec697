"""Augmentation of training batches: functions of the batch and a generator, uint8 (B, H, W, 3) in, `Crops` out.

B images of a batch, H and W pixels as stored, h and w pixels as the model takes them.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

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


class Crops(NamedTuple):
    """What was cut out of a batch, and where: `boxes_B4` are left, top, right and bottom in pixels as stored; a shifted crop may reach over
    the border. `mirrored_B` says which images were mirrored then.
    """

    images_Bhw3: Pixels
    boxes_B4: NDArray[np.float64]
    mirrored_B: NDArray[np.bool_]

    @classmethod
    def of(cls, images_Bhw3: Pixels, left_B: Any, top_B: Any, right_B: Any, bottom_B: Any) -> Crops:
        """None of them mirrored."""
        boxes_B4 = np.stack([left_B, top_B, right_B, bottom_B], axis=1).astype(np.float64)
        return cls(images_Bhw3, boxes_B4, np.zeros(len(images_Bhw3), np.bool_))


def check_augmentation(name: str) -> None:
    if name not in AUGMENTATIONS:
        raise RequestError(f"augmentation is {name!r}; allowed: {', '.join(AUGMENTATIONS)}")


def centre_crop(images_BHW3: Pixels, size: tuple[int, int]) -> Pixels:
    top, left = _centre(images_BHW3, size)
    return images_BHW3[:, top : top + size[0], left : left + size[1]]


def _centre(images_BHW3: Pixels, size: tuple[int, int]) -> tuple[int, int]:
    top, left = ((have - want) // 2 for have, want in zip(images_BHW3.shape[1:3], size, strict=True))
    return top, left


def unchanged(images_BHW3: Pixels, size: tuple[int, int]) -> Crops:
    """The centre crops."""
    crops_Bhw3, (top, left) = centre_crop(images_BHW3, size), _centre(images_BHW3, size)
    sides = (left, top, left + size[1], top + size[0])
    return Crops.of(crops_Bhw3, *(np.full(len(crops_Bhw3), side) for side in sides))


def light(images_BHW3: Pixels, size: tuple[int, int], flip: bool, generator: np.random.Generator) -> Crops:
    """A random shift of small images, a random crop of larger ones; with `flip`, half of the images are mirrored."""
    if max(size) <= MAX_SHIFTED_SIDE:
        crops = shift_crop(images_BHW3, size, generator)
    else:
        crops = resized_crop(images_BHW3, size, _LIGHT_SCALE, generator)
    return _flip_half(crops, generator) if flip else crops


def _flip_half(crops: Crops, generator: np.random.Generator) -> Crops:
    images_Bhw3 = crops.images_Bhw3
    chosen_B = generator.random(len(images_Bhw3)) < 0.5
    images_Bhw3[chosen_B] = images_Bhw3[chosen_B, :, ::-1]
    return crops._replace(mirrored_B=chosen_B)


def shift_crop(images_BHW3: Pixels, size: tuple[int, int], generator: np.random.Generator) -> Crops:
    """The centre crop, shifted by up to an eighth of its side in each direction; pixels outside the image are reflected at its border."""
    height, width = images_BHW3.shape[1:3]
    top_B = _shifted(height, size[0], len(images_BHW3), generator)
    left_B = _shifted(width, size[1], len(images_BHW3), generator)
    row_Bh, column_Bw = _reflected(top_B, size[0], height), _reflected(left_B, size[1], width)
    crops_Bhw3 = images_BHW3[np.arange(len(images_BHW3))[:, None, None], row_Bh[:, :, None], column_Bw[:, None, :]]
    return Crops.of(crops_Bhw3, left_B, top_B, left_B + size[1], top_B + size[0])


def _shifted(have: int, want: int, batch: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """The row (or column) that each crop starts at, (batch,)."""
    shifted: NDArray[np.int64] = (have - want) // 2 + generator.integers(-(want // 8), want // 8, size=batch, endpoint=True)
    return shifted


def _reflected(start_B: NDArray[np.int64], want: int, have: int) -> NDArray[np.int64]:
    """The stored rows (or columns) that each crop takes, (B, want)."""
    # Mirrored at the first row here, and at the last one below.
    index = np.abs(start_B[:, None] + np.arange(want))
    last = have - 1
    mirrored: NDArray[np.int64] = last - np.abs(last - index)
    return mirrored


def resized_crop(images_BHW3: Pixels, size: tuple[int, int], scale: tuple[float, float], generator: np.random.Generator) -> Crops:
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
    out_Bhw3 = np.empty((batch, *size, 3), np.uint8)
    crops = Crops.of(out_Bhw3, left_B, top_B, np.minimum(left_B + w_B, width), np.minimum(top_B + h_B, height))
    for image, box, out in zip(images_BHW3, crops.boxes_B4.tolist(), out_Bhw3, strict=True):
        out[:] = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=tuple(box)))
    return crops


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

    def __call__(self, images_BHW3: Pixels, generator: np.random.Generator) -> Crops:
        """The boxes say nothing of what RandAugment rotates, shears and shifts."""
        crops = resized_crop(images_BHW3, self._size, _STRONG_SCALE, generator)
        if self._flip:
            crops = _flip_half(crops, generator)
        for crop in crops.images_Bhw3:
            image = Image.fromarray(crop)
            for step in self._steps:
                image = step(image)
            crop[:] = np.asarray(image)
        return crops

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
