"""Durations as users write and read them: `2h`, `90m`, `1h30m`, `45s`."""

from __future__ import annotations

import itertools
import re

_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PARTS = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _UNITS))
DURATION_PATTERN = rf"^{_PARTS.pattern}$"


def parse_duration(text: str) -> float:
    """Seconds.

    Raises:
        ValueError: for any other form, and for a duration of zero; the message follows the name of the setting.
    """
    found = _PARTS.fullmatch(text.strip())
    seconds = (
        sum(float(part) * unit for part, unit in zip(found.groups(), _UNITS.values(), strict=True) if part) if found else 0.0
    )
    if not seconds:
        raise ValueError(f"is {text[:40]!r}; allowed: weeks, days, hours, minutes and seconds, such as 2h, 90m, 1h30m or 45s")
    return seconds


def exact_duration(seconds: float) -> str:
    """A text that `parse_duration` reads as the same seconds, to the microsecond."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def format_duration(seconds: float | None) -> str:
    """The two largest units, such as `75` -> `1m15s` and `3900` -> `1h05m`; `?` for None, `0s` for less than half a second."""
    if seconds is None:
        return "?"
    rest = max(round(seconds), 0)
    units = [(unit, length) for unit, length in _UNITS.items() if unit != "w"]
    for (unit, length), (lesser, fraction) in itertools.pairwise(units):
        if rest >= length:
            return f"{rest // length}{unit}{rest % length // fraction:02d}{lesser}"
    return f"{rest}s"
