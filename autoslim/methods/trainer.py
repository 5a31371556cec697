"""What a method sees of training: a batch with its losses in a trial, and the loop that shared work runs on the dense model.

Shapes: B batch, N tokens (prefix included), D width, C classes or channels, h and w the size of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from torch import Tensor, nn

from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import EpochReport
from autoslim.core.shape import ViTShape

Tensors = dict[str, Tensor]

DISTILLATION = frozenset({"distillation", "temperature"})
"""The settings of a recipe's training that `DistillationBatch.task_loss` reads beside the labels' own."""

COSINE = frozenset({"final_rate", "cooldown"})
"""The settings that only a learning rate reads that falls along a cosine."""


class DistillationBatch(Protocol):
    """One batch of the train phase. Each property is computed when it is first read, and never where it is not.

    A trial on several devices has a share of the batch on each. A loss is then that of the whole batch where it is a mean over the images,
    each for itself, beside terms that read no image. What else a loss reads of the batch is asked of the whole one: `mean`, `variance`.
    """

    images_B3HW: Tensor
    student: nn.Module
    teacher: nn.Module
    """The frozen dense model that the student is made from."""
    progress: float
    """The share of the phase's steps that is done, from 0 to below 1."""

    @property
    def has_classes(self) -> bool:
        """Whether there are logits. Without, both losses are those of the features, and no method reads logits."""

    @property
    def teacher_tokens(self) -> list[Tensor]:
        """The tokens (B, N, D) of `teacher` behind each block. Read before the losses, it costs no second pass."""

    @property
    def logits_BC(self) -> Tensor:
        """The student's logits."""

    @property
    def teacher_logits_BC(self) -> Tensor:
        """The logits that are the soft labels: those of `teacher`, or of another dense model that the search names as the teacher."""

    @property
    def task_loss(self) -> Tensor:
        """The loss of the labels and of the teacher's soft labels, weighted as the recipe's `distillation` says."""

    def task_loss_of(self, logits_BC: Tensor) -> Tensor:
        """As `task_loss`, of the logits of another pass of the same images. Only where there are classes."""

    @property
    def label_loss(self) -> Tensor:
        """The loss of the labels alone."""

    def mean(self, own: Tensor) -> Tensor:
        """The mean over the whole batch of what needs no gradient; `own` is that over this share."""

    def variance(self, x_NC: Tensor) -> Tensor:
        """The variance (C,) of each channel, which needs no gradient, over the rows of the whole batch; this share has `x_NC` of them."""


class SharedTrainer(Protocol):
    """What shared work gets: the dense model, the training images and a training loop, independent of any trial."""

    shape: ViTShape
    training: TrainingSettings
    teacher: nn.Module
    """The frozen dense model."""
    epoch_images: int
    """Training images in an epoch."""

    def student(self) -> nn.Module:
        """A copy of the dense model."""

    def images(self, count: int) -> Iterator[Tensor]:
        """Batches (B, 3, h, w) of `count` training images without augmentation, all of them at most; at every call the same, in the same
        order, so that those of a smaller `count` come first."""

    def train(
        self,
        student: nn.Module,
        loss: Callable[[DistillationBatch], Tensors],
        *,
        epochs: float,
        learning_rates: dict[str, float] | None = None,
        constant_rate: bool = False,
        weight_decay: float | None = None,
    ) -> Generator[EpochReport]:
        """Trains `student` in place and writes a checkpoint an epoch; an interrupted call resumes from the last one.

        Where `constant_rate` the learning rate neither rises nor falls. A `weight_decay` of None is the training's.
        """
