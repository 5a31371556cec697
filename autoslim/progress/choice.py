"""Which display a command gets: by `--progress`, by what stderr is, and in Python by where the code runs."""

from __future__ import annotations

import os
import sys
from typing import Literal, get_args

from autoslim.errors import RequestError
from autoslim.progress.display import Display, LineDisplay

ProgressMode = Literal["auto", "live", "plain", "none"]
PROGRESS_MODES: tuple[ProgressMode, ...] = get_args(ProgressMode)
"""auto: live in a terminal, and in Python in a notebook. live: bars. plain: a line an event. none: nothing."""

_IMMOBILE = ("dumb", "unknown")
"""Terminals without a cursor that can be moved."""


def terminal_display(mode: str) -> Display:
    """Of a command line.

    Raises:
        RequestError: for another mode.
    """
    _check(mode, "--progress")
    if mode == "none":
        return Display()
    moves = os.environ.get("TERM", "").lower() not in _IMMOBILE
    if moves and (mode == "live" or (mode == "auto" and sys.stderr.isatty())):
        from autoslim.progress.live import LiveDisplay

        return LiveDisplay()
    return LineDisplay()


def python_display(mode: str) -> Display:
    """Of a function that is called from Python: `auto` takes over a notebook's cell, but no terminal, which is the script's own.

    Raises:
        RequestError: for another mode.
    """
    _check(mode, "progress")
    if mode == "auto":
        from autoslim.progress.notebook import NotebookDisplay, in_notebook

        return NotebookDisplay() if in_notebook() else LineDisplay()
    return terminal_display(mode)


def _check(mode: str, name: str) -> None:
    if mode not in PROGRESS_MODES:
        raise RequestError(f"{name} is {mode!r}; allowed: {', '.join(PROGRESS_MODES)}")
