"""`TrialContext`: the dense model and the images, which all trials of a job share in one process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.core.job import ModelSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.cost import LatencyTable
from autoslim.data import ImageSplit, Loader, Splits, open_dataset
from autoslim.methods.base import logits_of
from autoslim.models import DenseModel, create_dense
from autoslim.models.weights import file_digest
from autoslim.training.device import pick_device

_CALIBRATION_IMAGES = 256
"""Training images that `Method.attach` measures on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialContext:
    """No trial changes it: the teacher is frozen and students are copies, so a process may run one trial after another.

    Attributes:
        dense: The dense model: every student's start, and the teacher.
        base_digest: Digest of the dense model's weights; with `dataset_digest` it keys results that trials share.
        shared_folder: Folder of the results that trials share; None keeps them in each trial's own folder.
        shared_training: Settings of the shared training; None takes each trial's own.
        latency: Predicts a plan's latency; needed where the recipe limits it.
    """

    dense: DenseModel
    classes: tuple[str, ...]
    splits: Splits
    device: torch.device
    base_digest: str
    dataset_digest: str
    shared_folder: Path | None = None
    shared_training: TrainingSettings | None = None
    latency: LatencyTable | None = None

    @classmethod
    def open(
        cls,
        *,
        base: Path,
        dataset: Path,
        device: torch.device | None = None,
        shared_folder: Path | None = None,
        shared_training: TrainingSettings | None = None,
        latency: LatencyTable | None = None,
    ) -> TrialContext:
        """`base` is a dense model's folder, `dataset` a prepared data set's path."""
        device = pick_device() if device is None else device
        prepared = open_dataset(dataset)
        dense = create_dense(ModelSpec(name=str(base)))
        dense.module.requires_grad_(False).eval().to(device)
        splits = prepared.splits(dense.shape.image_size, dense.preprocessing.crop_pct)
        return cls(
            dense=dense,
            classes=prepared.classes,
            splits=splits,
            device=device,
            base_digest=file_digest(base / "model.safetensors"),
            dataset_digest=prepared.digest,
            shared_folder=shared_folder,
            shared_training=shared_training,
            latency=latency,
        )

    @property
    def teacher(self) -> nn.Module:
        return self.dense.module

    def teacher_logits(self, images_B3HW: Tensor) -> Tensor:
        """The teacher's logits (B, C)."""
        with torch.no_grad():
            return logits_of(self.teacher(images_B3HW)).float()

    def student(self) -> nn.Module:
        return copy.deepcopy(self.dense.module)

    def loader(self, split: ImageSplit, training: TrainingSettings, *, seed: int, train: bool) -> Loader:
        return make_loader(self.dense, split, training, seed=seed, train=train)

    def calibration(self, training: TrainingSettings, *, seed: int) -> Tensor:
        """Up to 256 training images (B, 3, h, w) without augmentation, always the same ones."""
        return torch.cat(list(self.plain_images(_CALIBRATION_IMAGES, training, seed=seed)))

    def plain_images(self, count: int, training: TrainingSettings, *, seed: int) -> Iterator[Tensor]:
        """Batches (B, 3, h, w) of up to `count` training images without augmentation, always the same ones."""
        plain = training.replace(augmentation="none", flip=False)
        left = count
        batches = self.loader(self.splits.train, plain, seed=seed, train=True).epoch(0)
        with contextlib.closing(batches):  # type: ignore[type-var]
            for images_B3HW, _ in batches:
                yield images_B3HW[:left].to(self.device)
                left -= len(images_B3HW)
                if left <= 0:
                    return


def make_loader(dense: DenseModel, split: ImageSplit, training: TrainingSettings, *, seed: int, train: bool) -> Loader:
    """Batches with the image size and the normalisation of `dense`."""
    preprocessing, size = dense.preprocessing, dense.shape.image_size
    return Loader(
        split, training=training, mean=preprocessing.mean, std=preprocessing.std, image_size=size, seed=seed, train=train
    )
