"""A trial's schedule: which reports a real one makes, and after how many epochs, from its recipe alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from autoslim.core.recipe import Recipe
from autoslim.core.result import Phase
from autoslim.core.shape import ViTShape
from autoslim.methods import METHODS
from autoslim.training.phase_steps import split_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduledReport:
    """A report that is due after `epoch` epochs, of which `tuned` after the pruning."""

    epoch: float
    phase: Phase
    tuned: float


def schedule(recipe: Recipe, shape: ViTShape, *, steps: int) -> list[ScheduledReport]:
    """The reports that `training.trial` makes with `steps` steps an epoch; recipes of one step only."""
    (step,) = recipe.steps
    method, epochs = METHODS[step.method], recipe.training.epochs
    settings = method.shared_settings(shape, step.knobs)
    share = 0.0 if settings is None else method.shared_share(settings)
    shared = max(1, round(share * epochs * steps)) / steps if share else 0.0
    total = max(2, round((epochs - shared) * steps))
    (train,) = split_steps(total, [method.train_share(step.knobs)])
    marks = [
        ScheduledReport(epoch=round(shared + done / steps, 6), phase=Phase.TRAIN, tuned=0.0) for done in _segments(train, steps)
    ]
    marks.append(ScheduledReport(epoch=round(shared + train / steps, 6), phase=Phase.PRUNE, tuned=0.0))
    for done in _segments(total - train, steps):
        marks.append(ScheduledReport(epoch=round(shared + (train + done) / steps, 6), phase=Phase.FINETUNE, tuned=done / steps))
    return marks


def _segments(steps: int, length: int) -> Iterator[int]:
    """Steps done after each segment of at most an epoch."""
    return itertools.takewhile(lambda done: done > 0, itertools.chain(range(length, steps, length), [steps]))
