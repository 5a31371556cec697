"""Training that trials share: the context's dense model and images, with the settings of the job, not of a trial."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.core.recipe import Training
from autoslim.core.result import EpochReport, Phase
from autoslim.methods.base import DistillationBatch, Tensors
from autoslim.training.batch import LazyDistillationBatch
from autoslim.training.checkpoint import load_checkpoint, save_checkpoint
from autoslim.training.context import TrialContext
from autoslim.training.device import uses_bfloat16
from autoslim.training.loop import PhaseSchedule, Trainer

_FIRST_EPOCH = 500_000
"""Where shared training stands in the stream of augmented epochs, far from any trial's."""


class TrialSharedTrainer:
    """`methods.SharedTrainer` in a `TrialContext`; `checkpoint` is where unfinished training is kept, and found again."""

    def __init__(self, context: TrialContext, training: Training, *, seed: int, checkpoint: Path) -> None:
        self._context, self._seed, self._checkpoint = context, seed, checkpoint
        self.shape, self.training, self.teacher = context.dense.shape, training, context.teacher
        self.epoch_images = len(context.splits.train)

    def student(self) -> nn.Module:
        return self._context.student()

    def images(self, count: int) -> Iterator[Tensor]:
        return self._context.plain_images(count, self.training, seed=self._seed)

    def train(
        self,
        student: nn.Module,
        loss: Callable[[DistillationBatch], Tensors],
        *,
        epochs: float,
        learning_rates: dict[str, float] | None = None,
    ) -> Generator[EpochReport]:
        loader = self._context.loader(self._context.splits.train, self.training, seed=self._seed, train=True)
        student.to(self._context.device)

        def objective(images_B3HW: Tensor, targets: Tensor) -> Tensors:
            context = self._context
            return loss(
                LazyDistillationBatch(
                    student, context.teacher, images_B3HW, targets, self.training, teacher_logits=context.teacher_logits
                )
            )

        trainer = Trainer(
            student,
            objective,
            loader,
            self.training,
            PhaseSchedule(
                phase=Phase.SHARED,
                seed_name="shared",
                steps=max(1, round(epochs * len(loader))),
                first_epoch=_FIRST_EPOCH,
                learning_rates=learning_rates or {},
                average=False,
            ),
            seed=self._seed,
            device=self._context.device,
            bfloat16=uses_bfloat16(self.training.precision, self._context.device),
            companions=(self.teacher,),
        )
        saved = load_checkpoint(self._checkpoint)
        if saved is not None:
            trainer.restore(saved[0], step=saved[1]["step"])
            yield EpochReport(epoch=round(trainer.step / len(loader), 6), phase=Phase.SHARED, metrics=saved[1]["metrics"])
        torch.manual_seed(self._seed)
        for segment in trainer.segments():
            save_checkpoint(self._checkpoint, segment.state(), {"step": segment.steps, "metrics": segment.metrics})
            yield EpochReport(epoch=round(segment.steps / len(loader), 6), phase=Phase.SHARED, metrics=segment.metrics)
