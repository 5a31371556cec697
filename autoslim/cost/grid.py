"""`Grid`: numbers measured at the points of a grid, and what lies between them."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence

from autoslim.core.record import Record
from autoslim.errors import RequestError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(Record):
    """`axes` rise strictly; `values` hold a number for every combination of their entries, the last axis running fastest."""

    axes: tuple[tuple[float, ...], ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(axis and all(low < high for low, high in itertools.pairwise(axis)) for axis in self.axes):
            raise RequestError(f"a grid's axes must rise, and not be empty: {self.axes}")
        if math.prod(len(axis) for axis in self.axes) != len(self.values):
            raise RequestError(f"a grid of {' x '.join(str(len(axis)) for axis in self.axes)} has {len(self.values)} values")
        if not all(math.isfinite(value) for value in self.values):
            raise RequestError("a grid has a value that is not finite")

    @property
    def points(self) -> list[tuple[float, ...]]:
        """In the order of `values`."""
        return list(itertools.product(*self.axes))

    def __call__(self, *point: float) -> float:
        """Linear in every axis between its entries; beyond an end as at the end."""
        corners = [(0, 1.0)]
        for axis, place in zip(self.axes, point, strict=True):
            low, weight = _between(axis, place)
            corners = [
                (index * len(axis) + at, share * part)
                for index, share in corners
                for at, part in ((low, 1 - weight), (low + 1, weight))
                if part > 0
            ]
        return sum(self.values[index] * share for index, share in corners)

    def rising(self) -> Grid:
        """The same with every value raised to the largest below it: what is larger is not said to take less."""
        values = list(self.values)
        stride = 1
        for axis in reversed(self.axes):
            for index in range(len(values)):
                if index // stride % len(axis):
                    values[index] = max(values[index], values[index - stride])
            stride *= len(axis)
        return self.replace(values=tuple(values))


def _between(axis: Sequence[float], place: float) -> tuple[int, float]:
    """The entry at or below `place`, and how far it is from there to the next one, in shares of the way."""
    if place <= axis[0]:
        return 0, 0.0
    if place >= axis[-1]:
        return len(axis) - 1, 0.0
    low = bisect.bisect_right(axis, place) - 1
    return low, (place - axis[low]) / (axis[low + 1] - axis[low])
