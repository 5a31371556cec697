"""Durations as users write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoslim.core.duration import exact_duration, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("0.5d", 43_200), ("4w", 2_419_200)]
)
def test_a_duration_is_read_in_any_of_its_units(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0s", "5", "1m1h", "-1h", "1e3s"])
def test_anything_else_is_refused_with_its_value_and_what_is_allowed(text: str):
    with pytest.raises(ValueError, match=rf"^is '{text}'; allowed: .* such as 2h"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10**13).map(lambda microseconds: microseconds / 1e6))
def test_an_exact_duration_reads_back_as_the_same_seconds(seconds: float):
    assert parse_duration(exact_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (59.6, "1m00s"),
        (75, "1m15s"),
        (3600, "1h00m"),
        (90_061, "1d01h"),
        (3_000_000, "34d17h"),
        (None, "?"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float | None, text: str):
    assert format_duration(seconds) == text
