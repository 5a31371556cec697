"""What a command does now, as values: a display draws them, and nothing here knows of a terminal."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """Something that runs: `done` of `total` in its own unit, or without a total where nothing is known of its end.

    `facts` stand beside the bar, the most important one first: where there is no room, the last ones are left out.
    """

    name: str
    done: float = 0.0
    total: float | None = None
    facts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """From top to bottom: what runs side by side, results so far as pairs of a name and a text, and the command as a whole.

    `ends_at` is when the command, or its present step, is expected to end, in seconds of `time.monotonic`.
    """

    running: tuple[Bar, ...] = ()
    results: tuple[tuple[str, str], ...] = ()
    overall: Bar | None = None
    ends_at: float | None = None


def working(name: str) -> Status:
    """One step of unknown length."""
    return Status(running=(Bar(name=name),))
