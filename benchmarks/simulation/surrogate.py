"""The accuracy of a recipe after each epoch, and the time it takes, learnt from the table of real trials.

One regression predicts accuracies from the recipe, its plan and how long the trial has been trained; two predict seconds. The noise is the
difference between two trials of a recipe with different seeds in the table: one draw for a whole curve, and a smaller one for each point.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.core.result import Phase
from autoslim.core.shape import ViTShape
from autoslim.methods import METHODS
from simulation.features import vector
from simulation.table import Row, Trials
from simulation.trial import ScheduledReport

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """For each report that is due: the accuracy, None where none is measured, and the seconds since the trial began."""

    accuracies: tuple[float | None, ...]
    seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """Standard deviations of the noise that a seed adds to accuracies: one draw for a whole curve, and one for each point."""

    curve: float
    point: float


class Surrogate:
    def __init__(self, trials: Trials) -> None:
        self.shape: ViTShape = trials.shape
        self.training: TrainingSettings = trials.training
        self.steps = trials.steps
        self.base = trials.base
        self.noise = seed_noise(trials.rows)
        self.methods = methods_of(trials.rows)
        vectors = [self._vector(row.recipe, row.plan) for row in trials.rows]
        self._accuracy = fitted(*points(trials.rows, vectors, self.training.epochs))
        self._until_pruning = fitted(np.array(vectors), np.array([row.curve[0].seconds for row in trials.rows]))
        self._epoch = fitted(np.array(vectors), np.array([_epoch_seconds(row) for row in trials.rows]))

    def answer(self, recipe: Recipe, plan: Plan, marks: Sequence[ScheduledReport], *, noise_seed: int | None) -> Answer:
        """The curve of a recipe; `noise_seed` of None adds no noise."""
        x = self._vector(recipe, plan)
        judged = [index for index, mark in enumerate(marks) if mark.phase != Phase.TRAIN]
        values = self._accuracy.predict(with_times(x, [marks[index] for index in judged], self.training.epochs))
        if noise_seed is not None:
            chance = np.random.default_rng(noise_seed)
            values = values + chance.normal(0, self.noise.curve) + chance.normal(0, self.noise.point, len(values))
        accuracies: list[float | None] = [None] * len(marks)
        for index, value in zip(judged, values, strict=True):
            accuracies[index] = float(np.clip(value, 0.0, 1.0))
        return Answer(accuracies=tuple(accuracies), seconds=self._seconds(x, marks))

    def _vector(self, recipe: Recipe, plan: Plan) -> Array:
        return vector(recipe, plan, self.methods, self.shape)

    def _seconds(self, x: Array, marks: Sequence[ScheduledReport]) -> tuple[float, ...]:
        """A method's own training takes its share of the time up to the pruning."""
        until_pruning, epoch = (max(0.01, float(model.predict(x[None])[0])) for model in (self._until_pruning, self._epoch))
        pruned = next(mark.epoch for mark in marks if mark.phase == Phase.PRUNE)
        return tuple(
            until_pruning * (mark.epoch / (pruned + 1)) if mark.phase == Phase.TRAIN else until_pruning + epoch * mark.tuned
            for mark in marks
        )


def methods_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """In the registry's order."""
    return tuple(name for name in METHODS if any(row.recipe.method == name for row in rows))


def fitted(x: Array, y: Array) -> GradientBoostingRegressor:
    model = GradientBoostingRegressor(
        n_estimators=500, learning_rate=0.04, max_depth=5, subsample=0.6, max_features=0.3, min_samples_leaf=4, random_state=0
    )
    return model.fit(x, y)


def points(rows: Sequence[Row], vectors: Sequence[Array], epochs: float) -> tuple[Array, Array]:
    """Every point of every curve."""
    x = [with_times(vector, _marks(row), epochs) for row, vector in zip(rows, vectors, strict=True)]
    return np.vstack(x), np.array([point.accuracy for row in rows for point in row.curve])


def with_times(vector: Array, marks: Sequence[ScheduledReport], epochs: float) -> Array:
    """(reports, features): the recipe's features, and how far the trial is at each report."""
    times = np.array([[mark.tuned, mark.epoch / epochs, float(mark.phase == Phase.PRUNE)] for mark in marks])
    return np.hstack([np.tile(vector, (len(marks), 1)), times])


def _marks(row: Row) -> list[ScheduledReport]:
    pruned = row.curve[0].epoch
    return [ScheduledReport(epoch=point.epoch, phase=point.phase, tuned=point.epoch - pruned) for point in row.curve]


def _epoch_seconds(row: Row) -> float:
    """Seconds of one epoch of fine-tuning and the evaluation after it."""
    first, last = row.curve[0], row.curve[-1]
    return (last.seconds - first.seconds) / (last.epoch - first.epoch)


def seed_noise(rows: Sequence[Row]) -> SeedNoise:
    """From the trials that repeat a recipe. Their curves have the points of the fine-tuning in common, which are due at the same epochs."""
    by_number = {row.number: row for row in rows}
    pairs = [(by_number[row.repeats], row) for row in rows if row.repeats is not None and row.repeats in by_number]
    differences = [
        np.array([one.accuracy - other.accuracy for one, other in zip(first.curve[1:], second.curve[1:], strict=True)])
        for first, second in pairs
    ]
    within = float(np.mean([difference.var(ddof=1) for difference in differences if len(difference) > 1])) / 2
    between = float(np.mean([difference.mean() ** 2 - within * 2 / len(difference) for difference in differences])) / 2
    return SeedNoise(curve=max(0.0, between) ** 0.5, point=within**0.5)
