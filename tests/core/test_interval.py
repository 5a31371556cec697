"""Intervals against values that are known otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from autoslim.core.interval import Interval, paired_difference, separate_difference, wilson


@pytest.mark.parametrize(
    ("share", "images", "low", "high"),
    # Newcombe (Statistics in Medicine, 1998), table I: the score method without continuity correction.
    [(81 / 263, 263, 0.2553, 0.3662), (15 / 148, 148, 0.0624, 0.1605), (0.0, 20, 0.0, 0.1611), (1 / 29, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_that_of_the_literature(share: float, images: int, low: float, high: float) -> None:
    found = wilson(share, images)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


def test_an_unpaired_interval_is_that_of_two_samples() -> None:
    first, second = np.repeat([1.0, 0.0], [70, 30]), np.repeat([1.0, 0.0], [60, 40])
    half = 1.96 * np.sqrt(first.var() / 100 + second.var() / 100)
    found = separate_difference(0.7, 0.6, 100)
    assert (found.value, found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1 - half), pytest.approx(0.1 + half))


def test_a_paired_interval_is_that_of_the_mean_of_the_differences() -> None:
    first = np.array([1, 1, 0, 1, 0, 1, 1, 1, 0, 1] * 10)
    second = np.array([1, 0, 0, 1, 1, 1, 0, 1, 0, 1] * 10)
    difference = (first - second).astype(float)
    found = paired_difference(gained=int((difference > 0).sum()), lost=int((difference < 0).sum()), images=100)
    half = 1.96 * difference.std(ddof=1) / 10
    assert found.value == pytest.approx(difference.mean())
    assert (found.low, found.high) == (pytest.approx(difference.mean() - half), pytest.approx(difference.mean() + half))


def test_equal_answers_have_no_difference() -> None:
    assert paired_difference(gained=0, lost=0, images=50) == Interval(value=0.0, low=0.0, high=0.0)


def test_texts_are_in_percent_and_in_points() -> None:
    assert Interval(value=0.711, low=0.702, high=0.72).percent() == "71.10 (70.2-72.0)"
    assert Interval(value=-0.004, low=-0.011, high=0.003).points() == "-0.40 (-1.10 to +0.30)"
