"""A `Status` as rich draws it, within the width and the height of a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoslim.core.duration import format_duration
from autoslim.core.line_breaks import broken
from autoslim.progress.status import Bar, Status

_GAP = 2
"""Columns between a name, its bar and each fact."""
_NAME, _WIDE_NAME = 24, 60
"""Columns that names may take on a terminal of 80 columns and on one of `_WIDE` and more; longer ones are cut."""
_WIDE = 120
_SHORTEST, _LONGEST = 8, 40
"""Columns of a bar."""


def draw(status: Status, *, width: int, height: int, now: float) -> RenderableType:
    """At most `height` lines of at most `width` columns; `now` is on the clock of `Status.ends_at`."""
    overall = [] if status.overall is None else [status.overall]
    results = list(status.results[: max(0, height - len(overall) - 1)])
    running, hidden = _fitting(status.running, height - len(overall) - len(results))
    if status.ends_at is not None:
        running, overall = _with_time_left(running, overall, status.ends_at - now)
    name = _name_width([*(bar.name for bar in (*running, *overall)), *(label for label, _ in results)], width)
    room = width - name - _GAP - _SHORTEST
    facts = [*_facts(running, room), *_facts(overall, room)]
    bar = max(_SHORTEST, min(_LONGEST, width - name - _GAP - max(map(len, facts), default=0) - _GAP))
    rows = list(zip([*running, *overall], facts, strict=True))
    parts: list[RenderableType] = [_bars(rows[: len(running)], name, bar)] if running else []
    if hidden:
        parts.append(_cut(f"and {hidden} more", "dim"))
    parts += [_cut(f"{label:{name}}{' ' * _GAP}{text}", "") for label, text in results]
    parts += [_bars(rows[len(running) :], name, bar)] if overall else []
    return Group(*parts)


def message(text: str, *, at: str, style: str, width: int) -> Text:
    """A line that scrolls above the bars, behind the time of day `at`. Where it is longer than the terminal is wide, what follows begins
    below its text, so that the times stand alone."""
    start = f"{at} "
    room = max(1, width - len(start))
    lines = [line for part in text.splitlines() for line in broken(part, room, long_words=True)]
    return Text.assemble((start, "dim"), (f"\n{' ' * len(start)}".join(lines), style))


def _fitting(bars: Sequence[Bar], room: int) -> tuple[list[Bar], int]:
    """The first bars, and how many are left out; a line says that some are."""
    if len(bars) <= room:
        return list(bars), 0
    kept = max(0, room - 1)
    return list(bars[:kept]), len(bars) - kept


def _with_time_left(running: list[Bar], overall: list[Bar], seconds: float) -> tuple[list[Bar], list[Bar]]:
    """At the lowest bar, which is that of the whole where there is one."""
    left = f"about {format_duration(max(0.0, seconds))} left"
    *others, last = overall or running or [Bar(name="")]
    marked = [*others, dataclasses.replace(last, facts=(left, *last.facts))]
    return (running, marked) if overall else (marked, [])


def _name_width(names: Sequence[str], width: int) -> int:
    longest = max((len(name) for name in names), default=0)
    return min(longest, _WIDE_NAME if width >= _WIDE else _NAME, max(1, width - _GAP - _SHORTEST))


def _facts(bars: Sequence[Bar], room: int) -> list[str]:
    """The facts of each bar in columns, as many as there is room for."""
    several = [bar.facts for bar in bars]
    for count in range(max((len(facts) for facts in several), default=0), 0, -1):
        widths = [max((len(facts[place]) for facts in several if place < len(facts)), default=0) for place in range(count)]
        if sum(widths) + _GAP * count <= room:
            return [
                (" " * _GAP).join(f"{fact:<{wide}}" for fact, wide in zip(facts[:count], widths, strict=False)).rstrip()
                for facts in several
            ]
    return ["" for _ in several]


def _bars(rows: Sequence[tuple[Bar, str]], name: int, width: int) -> Table:
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(width=name, no_wrap=True, overflow="ellipsis")
    grid.add_column(width=width)
    grid.add_column(no_wrap=True, overflow="crop")
    for bar, facts in rows:
        drawn = ProgressBar(total=bar.total, completed=bar.done, width=width)
        grid.add_row(Text(bar.name), drawn, Text(facts, "dim"))
    return grid


def _cut(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")
