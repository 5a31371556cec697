"""A stretch of time as people write it: `2h`, `90m`, `1h30m`, `45s`."""

from __future__ import annotations

import re

_PARTS = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_SECONDS = (86400.0, 3600.0, 60.0, 1.0)
PATTERN = rf"^{_PARTS.pattern}$"


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError for anything else, and for no time at all."""
    found = _PARTS.fullmatch(text)
    seconds = sum(float(part) * unit for part, unit in zip(found.groups(), _SECONDS, strict=True) if part) if found else 0.0
    if not seconds:
        raise ValueError(f"is {text[:40]!r}; allowed: days, hours, minutes and seconds as 2h, 90m, 1h30m or 45s")
    return seconds


def format_duration(seconds: float) -> str:
    """Reads back as the same seconds."""
    return f"{seconds:g}s"
