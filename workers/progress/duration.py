"""Seconds as people say them; apart, because `autoslim slim` says them where the packages of a search are not installed."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """`75` -> `1m15s`."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
