"""Text in columns, and colour where somebody looks at it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

_CODES = {"green": "32", "red": "31", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}

STATE_COLOURS = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "PAUSED": "yellow",
    "QUEUED": "dim",
    "STARTING": "blue",
    "PREPARING": "blue",
    "SEARCHING": "blue",
    "FINALIZING": "blue",
}


def columns(rows: Sequence[Sequence[str]], *, gap: int = 2) -> list[str]:
    """Left-aligned, each as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [(" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def fields(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A name and a value a line; what follows a line break stands below the value."""
    width = max((len(name) for name, _ in pairs), default=0) + 4
    return [f"{name:{width}}{value}".replace("\n", "\n" + " " * width) for name, value in pairs]


def paint(text: str, colour: str | None, stream: TextIO | None = None) -> str:
    """`text` in a colour if `stream` (default stdout) is a terminal that wants colours (NO_COLOR, TERM)."""
    stream = stream or sys.stdout
    wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colour and wanted else text


def state_painted(line: str, state: str, stream: TextIO | None = None) -> str:
    """A finished line with the state in its colour, which does not change the columns."""
    return line.replace(state, paint(state, STATE_COLOURS.get(state), stream), 1)
