"""Intervals at 95 % around accuracies that were measured on a sample of images."""

from __future__ import annotations

import dataclasses
import math

from autoslim.core.record import Record

_Z = 1.96
"""Standard deviations of a normal distribution that 95 % lie within."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval(Record):
    """A measured value with the ends of its interval, as shares."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """`71.10 (70.2-72.0)`."""
        return f"{100 * self.value:.2f} ({100 * self.low:.1f}-{100 * self.high:.1f})"

    def points(self) -> str:
        """Of a difference: `-0.40 (-1.10 to +0.30)`."""
        return f"{100 * self.value:+.2f} ({100 * self.low:+.2f} to {100 * self.high:+.2f})"


def wilson(share: float, images: int) -> Interval:
    """Of a share of `images`: Wilson's score interval (1927), which stays within 0 and 1 and holds for few images, too."""
    spread = 1 + _Z**2 / images
    centre = (share + _Z**2 / 2 / images) / spread
    half = _Z * math.sqrt(share * (1 - share) / images + _Z**2 / 4 / images**2) / spread
    return Interval(value=share, low=centre - half, high=centre + half)


def separate_difference(first: float, second: float, images: int) -> Interval:
    """Of one share less another, both of so many `images`, as if of two samples: where it is not known which images each has right.

    On the same images it is wider than the paired one.
    """
    half = _Z * math.sqrt((first * (1 - first) + second * (1 - second)) / images)
    return Interval(value=first - second, low=first - second - half, high=first - second + half)


def widest_half(images: int) -> float:
    """Half of the widest interval that an accuracy measured on `images` has, as a share: that of one half."""
    return _Z * math.sqrt(0.25 / images)


def paired_difference(*, gained: int, lost: int, images: int) -> Interval:
    """Of one accuracy less another on the same `images`, of which the first alone has `gained` right and the second alone `lost`.

    The interval of a mean of differences of 1, 0 and -1: images that both have right or wrong make it narrower than two intervals of
    their own would be.
    """
    value = (gained - lost) / images
    variance = max(0.0, (gained + lost) / images - value**2)
    half = _Z * math.sqrt(variance / max(images - 1, 1))
    return Interval(value=value, low=value - half, high=value + half)
