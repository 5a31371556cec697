"""`Extent`: how much of everything is measured; the models, and images to train on, which are drawn and not downloaded."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from speedup import KNOBS
from torch import nn

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.record import Record
from autoslim.cost import predict
from autoslim.data import prepare_dataset
from autoslim.methods import METHODS, WITH_AN_OPTION, solve
from autoslim.models import DenseModel, create_dense
from autoslim.training import TrialContext
from autoslim.training.device import pick_device

CLASSES = 10
SHARE = 0.5
"""Of the dense model's FLOPs that the slimmed models have."""
DENSE = "dense"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extent(Record):
    """`batch` is that of training, `images` an epoch; `one` and `many` are the batches of inference, `seconds` one measurement's."""

    model: str
    args: dict[str, Any]
    batch: int
    images: int
    one: int
    many: int
    methods: tuple[str, ...]
    seconds: float


PLAIN = tuple(name for name in METHODS if name not in WITH_AN_OPTION)
"""What the others add to a model is in these, too."""

FULL = Extent(
    model="deit_small_patch16_224", args={}, batch=128, images=2048, one=1, many=256, methods=PLAIN, seconds=1.0
)  # fmt: skip
SMALL = Extent(
    model="deit_tiny_patch16_224",
    args={"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3},
    batch=8,
    images=60,
    one=1,
    many=8,
    methods=("life_regression", "vit_slim"),
    seconds=0.1,
)
"""Everything in little, to see on a CPU that the script runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding(Record):
    """What was measured: numbers by their names, which say the unit. With `skipped`, which says why, there are none."""

    what: str
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: str = ""


class Clock:
    """What is left of the seconds of a part."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


def dense_model(extent: Extent) -> DenseModel:
    """With random weights: neither time nor memory depends on them."""
    return create_dense(ModelSpec(name=extent.model, weights="scratch", args=extent.args), classes=CLASSES)


def slimmed_models(extent: Extent, dense: DenseModel) -> Iterator[tuple[str, nn.Module, float]]:
    """The dense model and the form that each method leaves of it, with their shares of the FLOPs."""
    shape, start = dense.shape, Plan.dense(dense.shape)
    total = predict(shape, start).total
    yield DENSE, dense.module, 1.0
    for name in extent.methods:
        solved = solve(METHODS[name], shape, start, KNOBS.get(name, {}), int(SHARE * total))
        model = METHODS[name].build(copy.deepcopy(dense.module), shape, solved.plan, solved.knobs)
        yield name, model, predict(shape, solved.plan).total / total


def images_in(folder: Path, extent: Extent, size: tuple[int, int]) -> Path:
    """JPEG files in class folders: colours that change slowly, under noise, as in a photograph."""
    numbers = range(extent.images + extent.images // 4)
    # Drawing and encoding hold no lock of Python's.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(partial(_write_image, folder, size), numbers):
            pass
    return folder


def _write_image(folder: Path, size: tuple[int, int], number: int) -> None:
    draw, (height, width) = np.random.default_rng(number), size
    rows_H1, columns_1W = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    colour_3, slope_3, tilt_3 = draw.uniform(40, 120, (3, 3))
    smooth_HW3 = colour_3 + rows_H1[..., None] * slope_3 + columns_1W[..., None] * tilt_3
    pixels_HW3 = np.clip(smooth_HW3 + draw.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    # Every fifth is for validation and test.
    path = folder / ("train" if number % 5 else "val") / str(number // 5 % CLASSES) / f"{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HW3).save(path, quality=90)


def open_context(extent: Extent, scratch: Path) -> TrialContext:
    """The dense model on this machine's device, with drawn images to train on."""
    dense, device = dense_model(extent), pick_device()
    dense.module.requires_grad_(False).eval().to(device)
    source = images_in(scratch / "images", extent, dense.shape.image_size)
    prepared = prepare_dataset(DatasetSpec(source=str(source)), scratch / "prepared", seed=0)
    return TrialContext(
        dense=dense,
        classes=prepared.classes,
        splits=prepared.splits(dense.shape.image_size, dense.preprocessing.crop_pct),
        device=device,
        base_digest="drawn",
        dataset_digest=prepared.digest,
    )
