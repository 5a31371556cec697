"""Training whose result all trials of a job share, such as a mask search: with the job's settings, not with those of a single trial."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import EpochReport, Phase
from autoslim.methods.trainer import DistillationBatch, Tensors
from autoslim.training.checkpoint import load_checkpoint, save_checkpoint
from autoslim.training.context import TrialContext
from autoslim.training.phase import TrainingPhase, make_trainer
from autoslim.training.phase_schedule import PhaseSchedule

_FIRST_EPOCH = 500_000
"""Number of the first epoch of augmented images: beyond every trial's, so that no trial sees the same augmentations again."""


class TrialSharedTrainer:
    """`methods.SharedTrainer` for a `TrialContext`; unfinished training is resumed from the folder `checkpoint`."""

    def __init__(self, context: TrialContext, training: TrainingSettings, *, seed: int, checkpoint: Path) -> None:
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
        constant_rate: bool = False,
        weight_decay: float | None = None,
    ) -> Generator[EpochReport]:
        length = len(self._context.loader(self._context.splits.train, self.training, seed=self._seed, train=True))
        schedule = PhaseSchedule(
            phase=Phase.SHARED,
            seed_name="shared",
            steps=max(1, round(epochs * length)),
            first_epoch=_FIRST_EPOCH,
            learning_rates=learning_rates or {},
            constant_rate=constant_rate,
            average=False,
        )
        # The loss reads no weight decay.
        training = self.training if weight_decay is None else self.training.replace(weight_decay=weight_decay)
        phase = TrainingPhase(
            student=student.to(self._context.device), loss=loss, training=training, schedule=schedule, seed=self._seed
        )
        trainer = make_trainer(self._context, phase)
        mirror = self._context.mirror
        saved = load_checkpoint(self._checkpoint, mirror=mirror)
        if saved is not None:
            trainer.restore(saved[0], step=saved[1]["step"])
            # None in the middle of an epoch.
            if saved[1]["metrics"]:
                yield EpochReport(epoch=round(trainer.step / length, 6), phase=Phase.SHARED, metrics=saved[1]["metrics"])
        trainer.save = lambda: save_checkpoint(
            self._checkpoint, trainer.state(), {"step": trainer.step, "metrics": {}}, mirror=mirror
        )
        torch.manual_seed(self._seed)
        for segment in trainer.segments():
            metadata = {"step": segment.steps, "metrics": segment.metrics}
            save_checkpoint(self._checkpoint, segment.state(), metadata, mirror=mirror)
            yield EpochReport(epoch=round(segment.steps / length, 6), phase=Phase.SHARED, metrics=segment.metrics)
