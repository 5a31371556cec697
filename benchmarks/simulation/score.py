"""What a search has found after some epochs or seconds: the hypervolume of its front, and its best accuracy within each budget.

A trial is chosen by its observed accuracy and scored by its accuracy without noise, as on a test set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from autoslim.core.result import hypervolume


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A model that a search could return after `at` (epochs or seconds)."""

    at: float
    flops: int
    observed: float
    true_accuracy: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    at: float
    hypervolume: float
    best: dict[str, float]
    """By budget; 0 where there is none yet."""


def scores(
    found: Sequence[Found], at: Sequence[float], *, budgets: Mapping[str, int], dense_flops: int, chance: float
) -> list[Score]:
    """The score at each of `at`, in rising order."""
    waiting, front, answers = sorted(found, key=lambda model: model.at), list[Found](), []
    for moment in at:
        while waiting and waiting[0].at <= moment:
            front = insert(front, waiting.pop(0))
        answers.append(
            Score(
                at=moment,
                hypervolume=hypervolume(_true_points(front), dense_flops=dense_flops, chance=chance),
                best={label: _best(front, flops) for label, flops in budgets.items()},
            )
        )
    return answers


def insert(front: Sequence[Found], model: Found) -> list[Found]:
    """The front by observed accuracy, cheapest first."""
    if any(other.flops <= model.flops and other.observed >= model.observed for other in front):
        return list(front)
    kept = [other for other in front if not (model.flops <= other.flops and model.observed >= other.observed)]
    return sorted([*kept, model], key=lambda other: other.flops)


def _true_points(front: Sequence[Found]) -> list[tuple[int, float]]:
    """FLOPs and accuracies without noise of the front's models; one that is no better than a cheaper one adds nothing."""
    points: list[tuple[int, float]] = []
    for model in front:
        if not points or model.true_accuracy > points[-1][1]:
            points.append((model.flops, model.true_accuracy))
    return points


def _best(front: Sequence[Found], flops: int) -> float:
    within = [model for model in front if model.flops <= flops]
    return within[-1].true_accuracy if within else 0.0
