"""The CPUs that this process may use, and how many of them other processes leave idle. Linux, with the standard library alone."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time in a period, and the period, of a container (cgroup v2)."""


def usable_cpus(quota: Path = _QUOTA) -> int:
    """The CPUs that the process is bound to (`taskset`), at most those that its container may use."""
    bound = len(os.sched_getaffinity(0))
    return max(1, int(min(bound, _limit(quota))))


def idle_cpus(load: float | None = None) -> int:
    """Usable CPUs less those that other processes have kept busy in the last minute, at least one. `load` is by default the machine's.

    The load counts the processes of the whole machine, so that a process that is bound to some of its CPUs may find fewer than there are.
    """
    busy = os.getloadavg()[0] if load is None else load
    return max(1, usable_cpus() - round(busy))


def _limit(quota: Path) -> float:
    try:
        allowed, period = quota.read_text().split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if allowed == "max" else int(allowed) / int(period)
