"""Tables and colours, drawn by rich. In a pipe or a file, and where NO_COLOR is set, the text is plain; a row is always one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO, Union

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

Cell = Union[str, "Text"]

STATE_STYLES = {
    "QUEUED": "dim",
    "STARTING": "blue",
    "PREPARING": "blue",
    "SEARCHING": "blue",
    "FINALIZING": "blue",
    "PAUSED": "yellow",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
}
"""Every state of a job."""

# rich cuts a table to the console's width; a command's output is also read by programs, which need whole rows.
_UNLIMITED = 100_000


def columns(rows: Sequence[Sequence[Cell]], *, header: bool = False, gap: int = 2) -> list[str]:
    """Lines of left-aligned cells; with `header` the first row is dimmed."""
    from rich.table import Table

    table = Table.grid(padding=(0, gap, 0, 0))
    for number, row in enumerate(rows):
        table.add_row(*row, style="dim" if header and number == 0 else None)
    return rendered(table)


def rendered(renderable: RenderableType, stream: TextIO | None = None) -> list[str]:
    """The lines that rich would print to `stream`, by default stdout."""
    from rich.console import Console

    console = Console(
        file=stream or sys.stdout,
        width=_UNLIMITED,
        height=_UNLIMITED,  # a width alone does not count on a dumb terminal
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().splitlines()]


def styled(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style)


def warning(text: str) -> str:
    """A line in bold."""
    (line,) = columns([(styled(f"warning: {text}", "bold"),)])
    return line


def state_text(state: str, more: str = "") -> Text:
    """The state in its colour, and what there is to add."""
    return styled(state, STATE_STYLES.get(state, "")).append(more, "default")
