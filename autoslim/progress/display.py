"""`Display`: where the progress of a command is shown. This one shows nothing, and `LineDisplay` writes lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from autoslim.progress.status import Status


class Display:
    """Shows nothing, as `--quiet` asks for. Entered for as long as there is something to show."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def line(self, text: str, *, status: str = "", style: str = "", at: str = "") -> None:
        """A line that stays. `status` is what a display with bars shows there, `style` one of rich's, `at` another time of day than now."""

    def detail(self, text: str) -> None:
        """A line that says what a display with bars shows there."""

    def show(self, status: Status) -> None:
        """What runs now, in the place of what ran before."""


class LineDisplay(Display):
    """One line an event, so that it reads the same in a log file and on a CI page."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """On stderr without a `stream`."""
        self._stream = stream

    def line(self, text: str, *, status: str = "", style: str = "", at: str = "") -> None:
        stream = sys.stderr if self._stream is None else self._stream
        stream.write(f"{at or clock()} {text}{status}\n")
        stream.flush()

    def detail(self, text: str) -> None:
        self.line(text)


class CallDisplay(Display):
    """Each line is an argument of a call."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def line(self, text: str, *, status: str = "", style: str = "", at: str = "") -> None:
        self._write(f"{text}{status}")

    def detail(self, text: str) -> None:
        self._write(text)


def clock() -> str:
    """The time of day, in front of a line."""
    return time.strftime("%H:%M:%S")
