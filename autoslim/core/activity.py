"""Signs of life of the work that this process does: `mark` where the work goes round, `idle_seconds` for who watches it (`StallWatch`).

A process does one trial, or one dense model's adaptation, at a time, so that there is one clock for all of its work.
"""

from __future__ import annotations

import time

_marked = time.monotonic()


def mark() -> None:
    """The work has advanced: a batch, a step, a part of a file, a look at what it waits for. It costs a look at the clock, and waits for
    no device.

    Never called by a thread that only keeps something alive, such as a heartbeat: that lives on when the work hangs.
    """
    global _marked
    _marked = time.monotonic()


def idle_seconds() -> float:
    """Since the last mark."""
    return time.monotonic() - _marked
