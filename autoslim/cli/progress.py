"""`--progress` and `--quiet`: the display of a command."""

from __future__ import annotations

import logging
import warnings

from autoslim.progress.choice import terminal_display
from autoslim.progress.display import Display


def display_for(progress: str, *, quiet: bool) -> Display:
    """To be entered while the command runs. With `quiet` nothing but its result and its errors is written, warnings of libraries included.

    Raises:
        RequestError: for an unknown kind of progress.
    """
    display = terminal_display(progress)
    if not quiet:
        return display
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    return Display()
