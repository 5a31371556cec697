"""Tables, paragraphs and colours, drawn by rich. In a pipe or a file, and where NO_COLOR is set, the text is plain, and a row is one line;
a terminal that is too narrow for a row gets it in several, with its words whole."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

from autoslim.core.line_breaks import broken, held

if TYPE_CHECKING:
    from rich.table import Table
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
    widths = _narrowed(rows, gap)
    for width in widths or ():
        table.add_column(width=width)
    if widths is not None:
        rows = [[_broken(cell, width) for cell, width in zip(row, widths, strict=False)] for row in rows]
    for number, row in enumerate(rows):
        table.add_row(*row, style="dim" if header and number == 0 else None)
    return _drawn(table)


def paragraph(text: str, *, indent: int = 2) -> str:
    """Prose that a terminal would break within words, broken between them; further lines are indented by so many spaces."""
    width = _terminal_columns()
    if width is None or len(text) <= width:
        return text
    return "\n".join(broken(text, width, indent=indent))


def _broken(cell: Cell, width: int) -> Cell:
    """Cells with styles are left to rich."""
    return "\n".join(broken(cell, width)) if isinstance(cell, str) else cell


def _terminal_columns() -> int | None:
    """Of the terminal that stdout is, or None."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    return None


def _narrowed(rows: Sequence[Sequence[Cell]], gap: int) -> list[int] | None:
    """Widths of columns with which the rows fit the terminal. None where they do anyway, or where a word would have to be broken."""
    from rich.cells import cell_len

    room = _terminal_columns()
    if room is None or not rows:
        return None
    texts = [[held(str(cell)) for cell in column] for column in itertools.zip_longest(*rows, fillvalue="")]
    widths = [max(map(cell_len, column)) for column in texts]
    least = [max((cell_len(word) for cell in column for word in cell.split(" ")), default=0) for column in texts]
    room -= gap * (len(widths) - 1)
    if sum(widths) <= room or sum(least) > room:
        return None
    while sum(widths) > room:
        # The widest gives, as long as its words stay whole.
        place = max(range(len(widths)), key=lambda place: widths[place] if widths[place] > least[place] else 0)
        widths[place] -= 1
    return widths


def _drawn(table: Table) -> list[str]:
    from rich.console import Console

    console = Console(
        file=sys.stdout,
        width=_UNLIMITED,
        height=_UNLIMITED,  # a width alone does not count on a dumb terminal
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def styled(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style)


def warning(text: str) -> str:
    """In bold."""
    return "\n".join(line for part in paragraph(f"warning: {text}").splitlines() for line in columns([(styled(part, "bold"),)]))


def state_text(state: str, more: str = "") -> Text:
    """The state in its colour, and what there is to add."""
    return styled(state, STATE_STYLES.get(state, "")).append(more, "default")
