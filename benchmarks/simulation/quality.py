"""How well the surrogate knows recipes that it has not seen: rank correlation, by cross-validation over recipes.

python benchmarks/simulation/quality.py
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.model_selection import GroupKFold

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from simulation.features import vector
from simulation.surrogate import fitted, methods_of, points, seed_noise, with_times
from simulation.table import Row, Trials
from simulation.trial import ScheduledReport

FOLDS = 10
BANDS = (0.0, 0.3, 0.45, 0.6, 0.75, 1.0)
"""Shares of the dense FLOPs."""

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """Spearman's rank correlations between predicted and measured final accuracies; those of methods and bands are within each.

    `repeated` is that of two trials of the same recipe with different seeds, the limit of any surrogate. `error` is the mean
    absolute one, `after_pruning` the rank correlation of the accuracies before any fine-tuning.
    """

    trials: int
    overall: float
    repeated: float
    after_pruning: float
    error: float
    methods: dict[str, tuple[int, float]]
    bands: dict[str, tuple[int, float]]


def quality(trials: Trials) -> Quality:
    rows = trials.rows
    methods = methods_of(rows)
    vectors = [vector(row.recipe, row.plan, methods, trials.shape) for row in rows]
    final, pruned = predicted(rows, vectors, trials.training.epochs)
    measured = np.array([row.curve[-1].accuracy for row in rows])
    shares = np.array([row.flops for row in rows]) / trials.base.dense_flops
    names = np.array([row.recipe.method for row in rows])

    def within(chosen: NDArray[np.bool_]) -> tuple[int, float]:
        return int(chosen.sum()), float(spearmanr(final[chosen], measured[chosen]).statistic)

    return Quality(
        trials=len(rows),
        overall=within(np.ones(len(rows), bool))[1],
        repeated=_repeated(rows),
        after_pruning=float(spearmanr(pruned, [row.curve[0].accuracy for row in rows]).statistic),
        error=float(np.abs(final - measured).mean()),
        methods={name: within(names == name) for name in methods},
        bands={f"{low:.0%} to {high:.0%}": within((shares > low) & (shares <= high)) for low, high in itertools.pairwise(BANDS)},
    )


def predicted(rows: Sequence[Row], vectors: Sequence[Array], epochs: float, *, folds: int = FOLDS) -> tuple[Array, Array]:
    """Final accuracies and those after the pruning, each by a model that has seen no trial of the recipe."""
    final, pruned = np.zeros(len(rows)), np.zeros(len(rows))
    groups = [row.group for row in rows]
    for seen, unseen in GroupKFold(folds).split(rows, groups=groups):
        model = fitted(*points([rows[i] for i in seen], [vectors[i] for i in seen], epochs))
        for index in unseen:
            first, last = rows[index].curve[0], rows[index].curve[-1]
            marks = [
                ScheduledReport(epoch=point.epoch, phase=point.phase, tuned=point.epoch - first.epoch) for point in (first, last)
            ]
            pruned[index], final[index] = model.predict(with_times(vectors[index], marks, epochs))
    return final, pruned


def _repeated(rows: Sequence[Row]) -> float:
    by_number = {row.number: row for row in rows}
    pairs = [(by_number[row.repeats], row) for row in rows if row.repeats is not None and row.repeats in by_number]
    return float(spearmanr(*zip(*[(one.accuracy, other.accuracy) for one, other in pairs], strict=True)).statistic)


def table(found: Quality, spread: Callable[[], str]) -> str:
    lines = ["| trials | | Spearman |", "|---|---|---|", f"| all | {found.trials} | {found.overall:.3f} |"]
    lines += [f"| {name} | {count} | {value:.3f} |" for name, (count, value) in (found.methods | found.bands).items()]
    lines += [f"| straight after pruning | {found.trials} | {found.after_pruning:.3f} |"]
    lines += [f"| the same recipe with two seeds | | {found.repeated:.3f} |"]
    return "\n".join([*lines, "", f"Mean absolute error {100 * found.error:.2f} points. {spread()}"])


def main() -> None:
    trials = Trials.read(*(Path(argument) for argument in sys.argv[1:2]))

    def spread() -> str:
        chance = seed_noise(trials.rows)
        return f"Noise: {100 * chance.curve:.2f} points a curve, {100 * chance.point:.2f} a point (standard deviations)."

    print(table(quality(trials), spread))


if __name__ == "__main__":
    main()
