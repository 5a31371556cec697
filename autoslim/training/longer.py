"""A finished model fine-tuned for longer; the validation images decide which epoch is kept, and whether it replaces the model."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Generator
from pathlib import Path

from torch import nn

from autoslim.core.record import OPTIONAL, Record
from autoslim.core.result import EpochReport, Phase
from autoslim.core.score import Score
from autoslim.export.artifact import SlimConfig, load_config, load_trained
from autoslim.methods import METHODS
from autoslim.training.best_state import BestState
from autoslim.training.checkpoint import load_checkpoint, save_checkpoint
from autoslim.training.context import TrialContext
from autoslim.training.finished_model import save_finished_model
from autoslim.training.loop import Trainer
from autoslim.training.measure import Measurer
from autoslim.training.model_checks import constraints_of
from autoslim.training.phase import TrainingPhase, make_trainer
from autoslim.training.phase_schedule import PhaseSchedule

_FIRST_EPOCH = 200_000
"""In the loader's numbering, behind all phases of a trial: their augmentations are not seen again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunedLonger(Record):
    """`before` and `after` are scores on the validation images, measured alike, of the model and of the same in its best epoch of `epochs`
    more, which is `kept_epoch`, the model's earlier ones counted. Results of earlier versions are of the last.
    """

    epochs: float
    before: float
    after: float
    seconds: float
    kept_epoch: float | None = dataclasses.field(default=None, metadata=OPTIONAL)

    @property
    def is_better(self) -> bool:
        """Of equals the model that has cost less stays."""
        return self.after > self.before

    def describe(self, score: Score, images: int | None = None) -> str:
        """`3 more epochs: validation accuracy 70.12% before, 71.40% after; the longer training is kept`, with the intervals of so many
        `images`."""
        kept = "the longer training is kept" if self.is_better else "the shorter training stays"
        before, after = score.spoken(self.before, images), score.spoken(self.after, images)
        return f"{self.epochs:g} more epochs: validation {score.name} {before} before, {after} after; {kept}"


def tune_longer(folder: Path, context: TrialContext, work: Path, *, epochs: float) -> Generator[EpochReport, None, TunedLonger]:
    """Fine-tunes the model in `folder` with the settings and the loss of its recipe, from the peak of its learning rate down again.

    The result is in `work`/model, whether it is better or not. What an interrupted run has left in `work` is continued.

    Raises:
        DivergedError, InfeasibleError: as in a trial.
    """
    began, config = time.monotonic(), load_config(folder)
    recipe, last = config.recipe, config.recipe.steps[-1]
    measurer = Measurer(recipe, context)
    before = measurer.accuracy(load_trained(folder).to(context.device).eval())
    trainer = _trainer(load_trained(folder).to(context.device), context, config, epochs=epochs)
    saved, best = load_checkpoint(work / "checkpoint"), BestState()
    if saved is not None:
        trainer.restore(saved[0], step=saved[1]["step"])
        best.resume(*saved)
        began -= float(saved[1]["seconds"])
    for segment in trainer.segments():
        score = measurer.accuracy_within_budget(segment.model, config.plan, last)
        epoch = recipe.training.epochs + segment.steps / len(trainer.loader)
        best.observe(segment.model, score=score, epoch=epoch)
        metadata = {"step": segment.steps, "seconds": time.monotonic() - began, **best.metadata}
        save_checkpoint(work / "checkpoint", segment.state() | best.tensors, metadata)
        yield EpochReport(epoch=epoch, phase=Phase.FINETUNE, metrics={**segment.metrics, "accuracy": score})
    model = trainer.student if trainer.average is None else trainer.average.module
    best.restore(model)
    measured = measurer.calibrate_and_measure(model.requires_grad_(False).eval(), config.plan, last)
    longer = recipe.replace(training=recipe.training.replace(epochs=recipe.training.epochs + epochs))
    save_finished_model(
        work / "model",
        model,
        context,
        recipe=longer,
        plan=config.plan,
        constraints=constraints_of(recipe, context.latency),
        measured=measured,
        budget_label=config.flops.budget_label,
        kept_epoch=best.epoch,
    )
    return TunedLonger(
        epochs=epochs, before=before, after=measured.accuracy, seconds=time.monotonic() - began, kept_epoch=best.epoch
    )


def _trainer(model: nn.Module, context: TrialContext, config: SlimConfig, *, epochs: float) -> Trainer:
    recipe = config.recipe
    training, last = recipe.training, recipe.steps[-1]
    method = METHODS[last.method]
    model.requires_grad_(True)
    loader = context.loader(context.splits.train, training, seed=recipe.seed, train=True)
    schedule = PhaseSchedule(
        phase=Phase.FINETUNE,
        seed_name="longer",
        steps=max(1, round(epochs * len(loader))),
        first_epoch=_FIRST_EPOCH,
        rate=method.finetune_rate(last.knobs),
        learning_rates=method.finetune_rates(model, last.knobs),
        lr_decay=method.lr_decay(last.knobs),
    )
    # The companion of a trial's fine-tuning is no part of the finished model: without it the task's own loss is left.
    accompanied = method.companion(config.shape, config.plan, last.knobs) is not None
    loss = None if accompanied else functools.partial(method.finetune_loss, last.knobs)
    phase = TrainingPhase(student=model, loss=loss, training=training, schedule=schedule, seed=recipe.seed)
    return make_trainer(context, phase)
