"""How many images of a split may be unreadable: a share of them, or a number of images.

As in scikit-learn the type decides: 1.0 is a share, that of all images, and 1 is one image.
"""

from __future__ import annotations

import math

from autoslim.errors import RequestError

Allowed = int | float
"""A number of images, or a share from 0 to 1."""

_ROUNDING = 1e-9
"""0.07 of 100 images is above 7 in binary."""


def parse_allowed(value: str | int | float) -> Allowed:
    """Reads `0.05`, `5%` and `3`, and numbers.

    Raises:
        RequestError: for another value; the message follows the name of the setting.
    """
    number = _number(value.strip()) if isinstance(value, str) else value
    if number is None or number < 0 or not (isinstance(number, int) or number <= 1):
        raise RequestError(
            f"is {repr(value)[:100]}; allowed: a share from 0 to 1, such as 0.05 or 5%, or a whole number of images, "
            "such as 3 (1 is one image, 100% all)"
        )
    return number


def _number(text: str) -> Allowed | None:
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def allowed_count(allowed: Allowed, images: int) -> int:
    """How many of `images` may be unreadable."""
    return allowed if isinstance(allowed, int) else math.floor(allowed * images + _ROUNDING)


def describe_allowed(allowed: Allowed, images: int) -> str:
    """In words, for a split of so many images."""
    count = allowed_count(allowed, images)
    return str(count) if isinstance(allowed, int) else f"{count}, a share of {allowed:g}"
