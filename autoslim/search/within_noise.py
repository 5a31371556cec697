"""Which model the numbers speak for: the cheapest whose accuracy cannot be told from that of the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from autoslim.core.constraints import CostLimits
from autoslim.core.interval import Interval, wilson
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.result import TrialResult
from autoslim.core.selection import NO_LIMITS, best_within, eligible


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithinNoise(Record):
    """`trial` is the cheapest within the interval of `best`, the most accurate trial of all budgets; both are numbers of trials, and may be
    the same. `accuracy` and `flops` are those of `trial`, `interval` that of the best one's accuracy on `images` validation images.
    `cheaper` counts the other trials with fewer FLOPs than `trial`, which are below that interval; None is an earlier version's.
    """

    trial: int
    title: str
    accuracy: float
    flops: int
    best: int
    interval: Interval
    images: int
    cheaper: int | None = dataclasses.field(default=None, metadata=OPTIONAL)


def cheapest_within_noise(
    results: Sequence[TrialResult], budgets: Mapping[str, int], limits: CostLimits = NO_LIMITS, *, images: int
) -> WithinNoise | None:
    """None where no trial is within a budget. The accuracies are top-1 shares of `images` validation images.

    An accuracy is within the noise of the best one where it is not below the 95 % interval of that one. This is cautious: on the same
    images smaller differences can be told apart (`autoslim compare`).
    """
    most = max(budgets.values(), default=0)
    best = best_within(results, most, limits)
    if best is None:
        return None
    interval = wilson(best.accuracy or 0.0, images)
    within = [result for result in eligible(results, limits) if (result.flops or 0) <= most]
    near = [result for result in within if (result.accuracy or 0.0) >= interval.low]
    found = min(near, key=lambda result: (result.flops or 0, -(result.accuracy or 0.0), result.number))
    return WithinNoise(
        trial=found.number,
        title=found.recipe.title,
        accuracy=found.accuracy or 0.0,
        flops=found.flops or 0,
        best=best.number,
        interval=interval,
        images=images,
        cheaper=sum((result.flops or 0) < (found.flops or 0) for result in within),
    )
