"""`TrialContext`: the dense model and the images, which all trials of a job share in one process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.core.job import ModelSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.cost import LatencyTable
from autoslim.data import ImageSplit, Loader, Splits, open_dataset
from autoslim.data.batch_share import BatchShare
from autoslim.methods.base import logits_of
from autoslim.models import DenseModel, OtherTeacher, check_teacher, create_dense
from autoslim.models.weights import file_digest
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.training.batch import LazyDistillationBatch
from autoslim.training.batch_parts import HalfTeacher
from autoslim.training.device import Precision, pick_device
from autoslim.training.rank_group import RankGroup

_CALIBRATION_IMAGES = 256
"""Training images that `Method.attach` measures on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialContext:
    """No trial changes it: the teacher is frozen and students are copies, so a process may run one trial after another.

    Attributes:
        dense: The dense model: every student's start, whose tokens methods measure and restore.
        base_digest: Digest of the weights of the dense model, and of the other teacher; with `dataset_digest` it keys results that trials
            share.
        shared_folder: Folder of the results that trials share; None keeps them in each trial's own folder.
        shared_training: Settings of the shared training; None takes each trial's own.
        latency: Predicts a plan's latency; needed where the recipe limits it.
        other_teacher: Another model, whose logits on the student's images are the soft labels; None: the dense model's are.
        group: The ranks that train together, of which this process is one; None trains on one device.
        preempted: Whether this process has to end soon; a trial then writes its checkpoint after the next step (`PreemptedError`).
        mirror: Where checkpoints, shared results and the model are kept, so that a trial goes on on another machine.
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
    other_teacher: nn.Module | None = None
    group: RankGroup | None = None
    preempted: Callable[[], bool] = lambda: False
    mirror: Mirror = NO_MIRROR

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
        teacher: Path | None = None,
        group: RankGroup | None = None,
        preempted: Callable[[], bool] = lambda: False,
        mirror: Mirror = NO_MIRROR,
    ) -> TrialContext:
        """`base` is a dense model's folder, `dataset` a prepared data set's path, `teacher` the folder of another dense model that gives
        the soft labels.

        Raises:
            RequestError: the teacher is for images of another size.
        """
        device = pick_device() if device is None else device
        prepared = open_dataset(dataset)
        # Images without labels have features to learn.
        dense = create_dense(ModelSpec(name=str(base)), classes=None if prepared.classes else 0)
        dense.module.requires_grad_(False).eval().to(device)
        splits = prepared.splits(dense.shape.image_size, dense.preprocessing.crop_pct)
        digest = file_digest(base / "model.safetensors")
        return cls(
            dense=dense,
            classes=prepared.classes,
            splits=splits,
            device=device,
            # Shared training may have the teacher's soft labels in its loss.
            base_digest=digest if teacher is None else f"{digest} {file_digest(teacher / 'model.safetensors')}",
            dataset_digest=prepared.digest,
            shared_folder=shared_folder,
            shared_training=shared_training,
            latency=latency,
            other_teacher=None if teacher is None else _open_teacher(teacher, dense, device),
            group=group,
            preempted=preempted,
            mirror=mirror,
        )

    @property
    def teacher(self) -> nn.Module:
        """The dense model: the teacher of whatever a method measures or restores inside the student."""
        return self.dense.module

    @property
    def frozen_models(self) -> tuple[nn.Module, ...]:
        """The models that run beside a student."""
        return (self.teacher,) if self.other_teacher is None else (self.teacher, self.other_teacher)

    def teacher_logits(self, images_B3HW: Tensor) -> Tensor:
        """The logits (B, C) of the model that gives the soft labels."""
        teacher = self.teacher if self.other_teacher is None else self.other_teacher
        with torch.no_grad():
            return logits_of(teacher(images_B3HW)).float()

    def half_teacher(self, precision: Precision) -> HalfTeacher | None:
        """Gives the `teacher_logits` in bfloat16 on a GPU; None where the teacher itself does, under autocast.

        In float16 it does: the sums of a large teacher's blocks may overflow, and autocast keeps them in float32.
        """
        if self.device.type != "cuda" or precision is not Precision.BFLOAT16:
            return None
        return HalfTeacher(self.frozen_models[-1]).eval()

    def batch(
        self,
        student: nn.Module,
        images_B3HW: Tensor,
        labels: Tensor,
        training: TrainingSettings,
        *,
        progress: float = 0.0,
        teacher_logits: Callable[[Tensor], Tensor] | None = None,
    ) -> LazyDistillationBatch:
        """What a loss reads of a batch; the soft labels are `teacher_logits`, and `progress` is that of the phase."""
        return LazyDistillationBatch(
            student,
            self.teacher,
            images_B3HW,
            labels,
            training,
            progress=progress,
            teacher_logits=teacher_logits or self.teacher_logits,
            gives_logits=self.other_teacher is None,
            group=self.group,
        )

    def student(self) -> nn.Module:
        return copy.deepcopy(self.dense.module)

    def loader(
        self, split: ImageSplit, training: TrainingSettings, *, seed: int, train: bool, share: BatchShare | None = None
    ) -> Loader:
        return make_loader(self.dense, split, training, seed=seed, train=train, share=share)

    def calibration(self, training: TrainingSettings, *, seed: int) -> Tensor:
        """Up to 256 training images (B, 3, h, w) without augmentation, always the same ones."""
        return torch.cat(list(self.plain_images(_CALIBRATION_IMAGES, training, seed=seed)))

    def plain_images(self, count: int, training: TrainingSettings, *, seed: int) -> Iterator[Tensor]:
        """Batches (B, 3, h, w) of up to `count` training images without augmentation, always the same ones."""
        # Repeats of an image differ by their augmentation alone.
        plain = training.replace(augmentation="none", flip=False, repeats=1)
        left = count
        batches = self.loader(self.splits.train, plain, seed=seed, train=True).epoch(0, self.device)
        with contextlib.closing(batches):  # type: ignore[type-var]
            for images_B3HW, _ in batches:
                yield images_B3HW[:left]
                left -= len(images_B3HW)
                if left <= 0:
                    return


def _open_teacher(folder: Path, student: DenseModel, device: torch.device) -> nn.Module:
    dense = create_dense(ModelSpec(name=str(folder)))
    check_teacher(folder.name, dense.shape, {"": student.shape})
    teacher = OtherTeacher(dense.module, student=student.preprocessing, own=dense.preprocessing)
    return teacher.requires_grad_(False).eval().to(device)


def make_loader(
    dense: DenseModel,
    split: ImageSplit,
    training: TrainingSettings,
    *,
    seed: int,
    train: bool,
    share: BatchShare | None = None,
    with_patches: bool = False,
) -> Loader:
    """Batches with the image size and the normalisation of `dense`, and with the labels of its patches if asked."""
    preprocessing, size = dense.preprocessing, dense.shape.image_size
    return Loader(
        split,
        training=training,
        mean=preprocessing.mean,
        std=preprocessing.std,
        image_size=size,
        seed=seed,
        train=train,
        share=share,
        token_grid=dense.shape.grid if with_patches else None,
    )
