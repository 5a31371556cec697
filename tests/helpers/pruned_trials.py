"""Running trials and their reports, as a pruner sees them."""

from __future__ import annotations

from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import EpochReport, Origin, Phase, TrialResult, TrialState


def trial(number: int, flops: int, *, method: str = "vit_slim", origin: Origin = Origin.SAMPLER) -> TrialResult:
    recipe = Recipe(steps=(Step(method=method, knobs={}),), budget=flops, training=TrainingSettings(epochs=9.0), seed=0)
    return TrialResult(number=number, recipe=recipe, origin=origin, state=TrialState.RUNNING)


def finetuned(epoch: float, accuracy: float) -> EpochReport:
    return EpochReport(epoch=epoch, phase=Phase.FINETUNE, metrics={"accuracy": accuracy, "loss": 1.0})


def pruned(accuracy: float, epoch: float = 0.0) -> EpochReport:
    return EpochReport(epoch=epoch, phase=Phase.PRUNE, metrics={"accuracy": accuracy})
