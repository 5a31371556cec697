"""A program on a terminal that is recorded, and what it showed as a page that a browser can take a picture of."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

# The emulator of the tests, which knows the controls that the progress display uses.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.screen import Screen, run_on_terminal

__all__ = ["last_lines", "run_on_terminal", "running_lines", "terminal_page"]

_REFRESH = "\r\x1b[2K"
"""The display begins with it when it draws its lines anew."""
_OTHERS = 10
"""Lines of the display besides the trials' bars, at most."""

_PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<body style="display: inline-block; margin: 0; padding: 12px 16px; color: {foreground}; background: {background}">
<pre style="margin: 0; font: 14px/1.3 'DejaVu Sans Mono', monospace">{code}</pre>
"""


def running_lines(raw: str, *, columns: int, bars: int) -> list[str]:
    """The screen's lines, with their colours, when it last showed how fast at least so many trials train, and the best model of a budget.

    Raises:
        ValueError: it never did.
    """
    frames = re.split(f"(?={re.escape(_REFRESH)})", raw)
    screen, last = Screen(columns), None
    for number, frame in enumerate(frames):
        screen.feed(frame)
        shown = screen.lines[-bars - _OTHERS :]
        running = sum(bool(re.match(r"trial \d+ .*epochs .*images/s", line)) for line in shown)
        if running >= bars and any(line.startswith("best ") for line in shown):
            last = number
    if last is None:
        raise ValueError(f"the recording never shows {bars} trials side by side")
    return last_lines("".join(frames[: last + 1]), columns=columns)


def last_lines(raw: str, *, columns: int) -> list[str]:
    """All that stood on the screen at the end, with its colours."""
    screen = Screen(columns)
    screen.feed(raw)
    return screen.painted


def terminal_page(lines: list[str], *, columns: int) -> str:
    """The lines on a dark ground, as HTML."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
    return console.export_html(theme=MONOKAI, code_format=_PAGE, inline_styles=True)
