"""Axes: from data to pixels, with round numbers at the ticks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps `low`..`high` onto pixels `start`..`end`; an `end` before its `start` turns the axis round."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values."""
        step = _round_step((self.high - self.low) / count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def span(values: Iterable[float], *, at_least: float, low: float = 0.0, high: float = math.inf) -> tuple[float, float]:
    """The range of `values` with a margin, never narrower than `at_least` nor beyond `low` and `high`."""
    known = list(values) or [low, low + at_least]
    first, last = min(known), max(known)
    margin = max(0.06 * (last - first), (at_least - (last - first)) / 2)
    return max(low, first - margin), min(high, last + margin)


def tick_labels(ticks: list[float], *, unit: float = 1.0) -> list[str]:
    """All with as many digits after the point as the finest needs."""
    step = abs(ticks[1] - ticks[0]) / unit if len(ticks) > 1 else 1.0
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    return [f"{tick / unit:.{digits}f}" for tick in ticks]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
