"""Measured numbers as users read them: so many significant digits, and never with an exponent where the number is large."""

from __future__ import annotations

_EPOCH_DIGITS = 2
"""Of epochs that are counted in fractions: more say nothing."""


def format_figure(value: float, digits: int = 3) -> str:
    """`0.2046` -> `0.205`, `352.4` -> `352`, `12345.6` -> `12,346`: whole numbers are not rounded to the digits, fractions are."""
    rounded = float(f"{value:.{digits}g}")
    return f"{value:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}"


def format_epochs(epochs: float) -> str:
    """`5.28571` -> `5.3`, `16.8` -> `17`, `1234.5` -> `1,234`."""
    return format_figure(epochs, _EPOCH_DIGITS)


def format_millions(count: float) -> str:
    """`85800000` -> `85.8 M`."""
    return f"{format_figure(count / 1e6)} M"
