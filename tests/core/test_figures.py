"""Measured numbers as users read them."""

from __future__ import annotations

import pytest

from autoslim.core.figures import format_epochs, format_figure, format_millions


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.20464, "0.205"),
        (4.0, "4"),
        (99.96, "100"),
        (352.4, "352"),
        (999.6, "1,000"),
        (12345.6, "12,346"),
        (-0.5, "-0.5"),
    ],
)
def test_a_figure_has_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert format_figure(value) == text


@pytest.mark.parametrize(
    ("epochs", "text"), [(3.0, "3"), (0.205, "0.2"), (5.61, "5.6"), (9.97, "10"), (16.8, "17"), (1234.0, "1,234")]
)
def test_epochs_have_no_more_digits_than_they_are_known_to(epochs: float, text: str) -> None:
    assert format_epochs(epochs) == text


def test_a_billion_parameters_have_no_exponent() -> None:
    assert [format_millions(count) for count in (88_900, 85_800_000, 1_011_000_000)] == ["0.0889 M", "85.8 M", "1,011 M"]
