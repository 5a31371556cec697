"""What processes of `benchmarks/bound_reader.py` read epochs with in tests: nothing, in times that no machine changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

SECONDS = {1: 2.0, 2: 1.25}
"""Of an epoch, by the number of cores."""


def open_on_clock(augmentation: str, loader: str, *, cores: int) -> Callable[[], None]:
    """For a process of its own, whose clock goes by `SECONDS` with every epoch, and not else."""
    now = 0.0

    def read() -> None:
        nonlocal now
        bound = os.sched_getaffinity(0)
        assert len(bound) == cores, f"{augmentation}, {loader}: on {bound} instead of {cores} cores"
        now += SECONDS[cores]

    time.perf_counter = lambda: now
    return read


def fail(augmentation: str, loader: str, *, cores: int) -> Callable[[], None]:
    """With an error, or for `killed` without one."""
    if loader == "killed":
        os._exit(7)
    raise OSError(f"no images for {loader} with {augmentation} on {cores}")
