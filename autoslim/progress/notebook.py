"""`NotebookDisplay`: bars in the output of a notebook's cell, and lines below them."""

from __future__ import annotations

import io
import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from autoslim.progress.display import Display, clock
from autoslim.progress.drawing import draw
from autoslim.progress.status import Status

_WIDTH, _HEIGHT = 100, 24
"""Columns and lines of the drawing."""
_SECONDS = 0.5
"""Between two drawings, each of which is a message to the browser."""
_BLOCK = '<pre style="line-height:1.2;white-space:pre">{code}</pre>'


class NotebookDisplay(Display):
    """Needs IPython alone: the bars are one piece of HTML that is replaced, and no widget."""

    def __enter__(self) -> Self:
        from IPython.display import HTML, display

        self._html, self._drawn_at = HTML, -_SECONDS
        self._shown: Any = display(HTML(""), display_id=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._shown.update(self._html(""))

    def line(self, text: str, *, status: str = "", style: str = "", at: str = "") -> None:
        # On stdout: notebooks show stderr in red.
        sys.stdout.write(f"{at or clock()} {text}\n")

    def show(self, status: Status) -> None:
        now = time.monotonic()
        if now - self._drawn_at >= _SECONDS:
            self._drawn_at = now
            self._shown.update(self._html(as_html(status, now=now)))


def as_html(status: Status, *, now: float) -> str:
    """The drawing as preformatted text with its colours; `now` as in `draw`."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=_WIDTH,
        height=_HEIGHT,
        force_terminal=True,
        force_jupyter=False,
        color_system="truecolor",
        highlight=False,
    )
    console.print(draw(status, width=_WIDTH, height=_HEIGHT, now=now))
    return console.export_html(inline_styles=True, code_format=_BLOCK)


def in_notebook() -> bool:
    """Whether this process computes the cells of a notebook."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # A shell in a terminal has no kernel.
    return shell is not None and getattr(shell, "kernel", None) is not None
