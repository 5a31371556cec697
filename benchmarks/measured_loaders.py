"""The loaders that `loader_speed.py` measures: autoslim's, from decoded images and decoding, and timm's; and the images that they read.

JPEG photographs of 4:3 are generated, whose shorter side is one and a half times the model's.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageDataset, create_loader
from timm.data.loader import PrefetchLoader
from timm.data.transforms_factory import transforms_imagenet_train

from autoslim.core.job import DatasetSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.data import Loader, prepare_dataset
from autoslim.training.device import pick_device

BATCH, CROP_PCT, NORM = 64, 0.9, (0.5, 0.5, 0.5)

LIMITS = {"cache": 2**40, "decoding": 0}
"""Bytes up to which autoslim's loaders have all images decoded once: any number, or none."""
LOADERS = ("timm", *LIMITS)
AUGMENTATIONS = ("light", "strong")

TIMM_AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "light": {"scale": (0.6, 1.0), "interpolation": "bicubic", "color_jitter": None},
    "strong": {
        "scale": (0.35, 1.0),
        "interpolation": "bicubic",
        # Without `mmax9` a magnitude of 10 asks Pillow's posterize for 0 bits, which is an error.
        "auto_augment": "rand-m9-mstd0.5-mmax9-inc1",
        "color_jitter": 0.4,
        "force_color_jitter": True,
    },
    "deit": {"interpolation": "bicubic", "auto_augment": "rand-m9-mstd0.5-mmax9-inc1"},
    "imagenet": {"interpolation": "bicubic"},
}
"""Arguments of timm's `transforms_imagenet_train` that do as much as autoslim's augmentation of that name."""
TIMM_ERASING: dict[str, dict[str, Any]] = {
    "light": {},
    "strong": {"re_prob": 0.25, "re_mode": "pixel"},
    "deit": {"re_prob": 0.25, "re_mode": "pixel"},
    "imagenet": {},
}
"""Those of its `create_loader`, which erases in whole batches."""
COMPARED = hashlib.sha256(repr((BATCH, CROP_PCT, NORM, TIMM_AUGMENTATIONS, TIMM_ERASING)).encode()).hexdigest()[:8]
"""Of what is compared: results of other settings are none of these."""

IMAGES = {32: 8192, 224: 512, 384: 256}
"""Of an epoch, by the side: about as long for each. Another side has as many as the next one above."""


def images_of(side: int) -> int:
    return next((IMAGES[known] for known in sorted(IMAGES) if side <= known), min(IMAGES.values()))


def image_folder(output: Path, side: int, count: int) -> Path:
    """Where they are in `output`, generated if need be."""
    source = output / f"images-{side}-{count}" / "source"
    if not source.is_dir():
        partial = source.with_name("partial")
        write_images(partial, side, count)
        partial.rename(source)
    return source


def write_images(folder: Path, side: int, count: int) -> None:
    """Class folders of large soft spots under fine grain, which take as many bytes as photographs: `count` images to train with, and a few
    for the other splits."""
    height = side * 3 // 2
    for split, images in (("train", count), ("val", 4), ("test", 4)):
        for number in range(images):
            path = folder / split / f"class{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            generator = np.random.default_rng([side, number, len(split)])
            spots = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            soft = np.asarray(spots.resize((height * 4 // 3, height), Image.Resampling.BICUBIC))
            grain = generator.normal(0, 8, (*soft.shape[:2], 1))
            Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def epoch_reader(source: Path, side: int, augmentation: str, loader: str, *, cores: int) -> Callable[[], None]:
    """Reads a whole epoch of `loader`, one of `LOADERS`, whenever it is called. The process has `cores` threads from now on, or timm's
    loader as many worker processes; where there is a GPU, batches end on it.
    """
    torch.set_num_threads(cores)
    device = pick_device()
    batches = (
        _timm_batches(source, side, augmentation, workers=cores, device=device)
        if loader == "timm"
        else _our_batches(source, side, augmentation, limit=LIMITS[loader], device=device)
    )

    def read() -> None:
        for _ in batches():
            pass
        if device.type == "cuda":
            torch.cuda.synchronize()

    return read


def _our_batches(source: Path, side: int, augmentation: str, *, limit: int, device: torch.device) -> Callable[[], Iterable[Any]]:
    spec = DatasetSpec(source=str(source), decoded_limit=limit)
    size = (side, side)
    prepared = prepare_dataset(spec, source.parent / "prepared", seed=0, inputs=[(size, CROP_PCT)])
    training = TrainingSettings(batch_size=BATCH, augmentation=augmentation)
    train = prepared.splits(size, CROP_PCT).train
    loader = Loader(train, training=training, mean=NORM, std=NORM, image_size=size, seed=0, train=True)
    epochs = itertools.count()
    return lambda: loader.epoch(next(epochs), device)


def _timm_batches(
    source: Path, side: int, augmentation: str, *, workers: int, device: torch.device
) -> Callable[[], Iterable[Any]]:
    loader = timm_loader(source, side, augmentation, workers=workers, device=device)
    return lambda: loader


def timm_loader(source: Path, side: int, augmentation: str, *, workers: int, device: torch.device) -> PrefetchLoader:
    """timm's loader of the training images in `source`, with the nearest equal of autoslim's `augmentation`."""
    dataset = ImageDataset(str(source / "train"))
    loader = create_loader(
        dataset,
        input_size=(3, side, side),
        batch_size=BATCH,
        is_training=True,
        mean=NORM,
        std=NORM,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        device=device,
        **TIMM_ERASING[augmentation],
    )
    # `create_loader` leaves the colour jitter out beside RandAugment, and has no argument that keeps it. Its workers start with the first
    # epoch.
    dataset.transform = transforms_imagenet_train(
        side, use_prefetcher=True, mean=NORM, std=NORM, **TIMM_AUGMENTATIONS[augmentation]
    )
    return loader
