"""`LiveDisplay`: lines that scroll, and bars that stay at the bottom of a terminal."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from autoslim.progress.captured_output import CapturedOutput
from autoslim.progress.display import Display, clock
from autoslim.progress.drawing import draw, message
from autoslim.progress.status import Status

_REFRESHES = 4
"""A second: often enough for a clock, and cheap beside the training."""


class LiveDisplay(Display):
    """On stderr. What others write there meanwhile, and to stdout where that is a terminal, too, becomes lines above the bars.

    It is entered once. Bars vanish at its end, lines stay.
    """

    def __enter__(self) -> Self:
        self._status = Status()
        self._stack = contextlib.ExitStack()
        # Data on a pipe or in a file is not for the terminal.
        descriptors = [sys.__stderr__.fileno(), *([sys.__stdout__.fileno()] if os.isatty(sys.__stdout__.fileno()) else [])]  # type: ignore[union-attr]
        captured = CapturedOutput(descriptors, self._foreign)
        self._terminal: TextIO = self._stack.enter_context(
            os.fdopen(captured.duplicate, "w", encoding=sys.stderr.encoding, errors="replace")
        )
        self._console = Console(
            file=self._terminal,
            force_terminal=True,
            color_system=None if os.environ.get("NO_COLOR") else "auto",
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._resize()
        self._live = Live(
            get_renderable=self._drawn,
            console=self._console,
            transient=True,
            refresh_per_second=_REFRESHES,
            # `CapturedOutput` has them.
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._stack.enter_context(self._live)
        # The last, and so the first to end: what is written at the end is still drawn above the bars.
        self._stack.enter_context(captured)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def line(self, text: str, *, status: str = "", style: str = "", at: str = "") -> None:
        # Below a line rich draws the bars of its last refresh, which may have had that of a trial whose end the line tells.
        self._live.refresh()
        self._console.print(message(text, at=at or clock(), style=style, width=self._console.width))

    def show(self, status: Status) -> None:
        self._status = status

    def _foreign(self, text: str) -> None:
        self._console.print(Text.from_ansi(text), soft_wrap=True)

    def _drawn(self) -> RenderableType:
        width, height = self._resize()
        # A line that ends in the last column, and one at the bottom, would make some terminals scroll.
        return draw(self._status, width=width - 1, height=height - 1, now=time.monotonic())

    def _resize(self) -> tuple[int, int]:
        """Columns and lines of the terminal now. Not rich's own: it looks at descriptors that are captured."""
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(self._terminal.fileno())
            if columns and lines:
                self._console.size = (columns, lines)
                return columns, lines
        columns, lines = shutil.get_terminal_size()
        return columns, lines
