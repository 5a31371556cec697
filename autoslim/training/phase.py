"""`make_trainer`: the trainer of one phase of a trial, on one device or as one of several ranks."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoslim.core.recipe import TrainingSettings
from autoslim.methods.trainer import DistillationBatch, Tensors
from autoslim.training.batch_parts import SoftLabels
from autoslim.training.checkpoint import flatten_optimizer, restore_optimizer
from autoslim.training.context import TrialContext
from autoslim.training.device import choose_precision
from autoslim.training.loop import Trainer
from autoslim.training.phase_schedule import PhaseSchedule
from autoslim.training.ranks import LeadingRank

Loss = Callable[[DistillationBatch], Tensors]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPhase:
    """What is trained, and how. Minimises `loss`, or the task's where it is None.

    On several ranks all of it is pickled, so that `loss` is no lambda: `functools.partial(method.loss, knobs)`.
    """

    student: nn.Module
    loss: Loss | None
    training: TrainingSettings
    schedule: PhaseSchedule
    seed: int


def make_trainer(context: TrialContext, phase: TrainingPhase) -> Trainer:
    group, training, schedule = context.group, phase.training, phase.schedule
    share = None if group is None else group.share
    precision = choose_precision(training.precision, context.device)
    half = context.half_teacher(precision)
    soft_labels = SoftLabels(half or context.teacher_logits)

    def teacher_logits(_: Tensor) -> Tensor:
        assert trainer.update.part is not None, "outside of a step"
        return soft_labels(trainer.update.part)

    def objective(images_B3HW: Tensor, labels: Tensor) -> Tensors:
        progress = trainer.step / schedule.steps
        batch = context.batch(phase.student, images_B3HW, labels, training, progress=progress, teacher_logits=teacher_logits)
        return {"loss": batch.task_loss} if phase.loss is None else phase.loss(batch)

    trainer = Trainer(
        phase.student,
        objective,
        context.loader(context.splits.train, training, seed=phase.seed, train=True, share=share),
        training,
        schedule,
        seed=phase.seed,
        device=context.device,
        precision=precision,
        frozen_models=context.frozen_models if half is None else (*context.frozen_models, half),
        group=group,
        preempted=context.preempted,
    )
    if isinstance(group, LeadingRank):
        trainer.segment_context = group.segments(functools.partial(pack, phase, trainer))
    return trainer


def pack(phase: TrainingPhase, trainer: Trainer) -> bytes:
    """The phase, and where its trainer is, for another rank."""
    # The moving average of the weights is evaluated, which rank 0 alone does.
    sent = dataclasses.replace(phase, schedule=dataclasses.replace(phase.schedule, average=False))
    buffer = io.BytesIO()
    torch.save((sent, flatten_optimizer(trainer.optimizer, trainer.scaler), trainer.step, trainer.unfinished), buffer)
    return buffer.getvalue()


def unpack(context: TrialContext, packed: bytes) -> Trainer:
    """The trainer of another rank, where rank 0's was when it was packed."""
    # Not of a file: from rank 0, over a pipe between the two processes alone.
    phase, optimizer, step, unfinished = torch.load(io.BytesIO(packed), map_location=context.device, weights_only=False)  # nosec B614
    trainer = make_trainer(context, phase)
    restore_optimizer(trainer.optimizer, trainer.scaler, optimizer)
    trainer.step, trainer.unfinished = step, unfinished
    return trainer
