"""`Grid`: numbers measured at the points of a grid, with multilinear interpolation between them."""

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
    """`axes` rise strictly; `values` has a number for every combination of their entries, the last axis varying fastest."""

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
        """The points in the order of `values`."""
        return list(itertools.product(*self.axes))

    def __call__(self, *point: float) -> float:
        """The value at `point`, one coordinate per axis: linear in every axis between its entries, constant beyond its ends."""
        # The corners of the cell that holds the point, as flat indices with their weights; each axis splits every corner in two.
        corners = [(0, 1.0)]
        for axis, coordinate in zip(self.axes, point, strict=True):
            low, fraction = _interval(axis, coordinate)
            # At the last entry of an axis there is no next one: corners without weight are never looked up.
            corners = [
                (index * len(axis) + entry, weight * part)
                for index, weight in corners
                for entry, part in ((low, 1 - fraction), (low + 1, fraction))
                if part > 0
            ]
        return sum(self.values[index] * weight for index, weight in corners)

    def non_decreasing(self) -> Grid:
        """The least grid above this one that falls along no axis: noise must not make a larger part cheaper, or bisection fails."""
        # A running maximum along one axis after the other; `stride` is how far neighbours along the axis are apart in `values`.
        values = list(self.values)
        stride = 1
        for axis in reversed(self.axes):
            for index in range(len(values)):
                if index // stride % len(axis):
                    values[index] = max(values[index], values[index - stride])
            stride *= len(axis)
        return self.replace(values=tuple(values))


def _interval(axis: Sequence[float], coordinate: float) -> tuple[int, float]:
    """The index of the entry at or below `coordinate`, and how far it is from there to the next entry, from 0 to 1."""
    if coordinate <= axis[0]:
        return 0, 0.0
    if coordinate >= axis[-1]:
        return len(axis) - 1, 0.0
    low = bisect.bisect_right(axis, coordinate) - 1
    return low, (coordinate - axis[low]) / (axis[low + 1] - axis[low])
