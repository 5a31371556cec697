"""`read_images`: image files as the input of a slimmed model, as it was trained on them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from autoslim.data.augment import centre_crop
from autoslim.data.decode import decode_rgb, fit, storage_size
from autoslim.data.image_file import read_image_file
from autoslim.data.sample import Sample
from autoslim.errors import DatasetError
from autoslim.export.artifact import SlimConfig


def read_images(paths: Iterable[str | Path], config: SlimConfig) -> torch.Tensor:
    """Reads image files as training and `autoslim evaluate` do: turned as their EXIF orientation says, transparency over white, the upper
    eight bits of 16-bit grey, resized, cropped and normalised as `config` says.

    Returns:
        The input of the model, float32 (N, 3, h, w).

    Raises:
        DatasetError: for a file that cannot be read; names it.
    """
    how, size = config.preprocessing, config.shape.image_size
    stored = storage_size(size, how.crop_pct)
    pixels = np.stack([centre_crop(_read(Path(path), stored)[None], size)[0] for path in paths])
    sample = Sample(pixels=pixels, labels=np.zeros(len(pixels), np.int64), classes=config.classes)
    return sample.tensor(mean=how.mean, std=how.std)


def _read(path: Path, size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        return fit(decode_rgb(read_image_file(path)), size)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
