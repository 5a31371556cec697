"""The CPUs that this process may use, and how many of them other processes leave idle. Linux, with the standard library alone."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time in a period, and the period, of a container (cgroup v2)."""

_STAT = Path("/proc/stat")
"""A line for each CPU of the machine with the ticks that it has spent: user, nice, system, idle, waiting for a disk, interrupts, ..."""

_IDLE, _TICKS = slice(3, 5), slice(0, 8)
"""Of a line's numbers those of an idle CPU, and all but the last two, which the first ones contain."""

_SECONDS = 0.25
"""Of a measurement: twenty-five ticks of each CPU."""

Ticks = Mapping[int, tuple[int, int]]
"""By the CPU's number its idle ticks and all of them."""


def usable_cpus(quota: Path = _QUOTA) -> int:
    """The CPUs that the process is bound to (`taskset`), at most those that its container may use."""
    bound = len(os.sched_getaffinity(0))
    return max(1, int(min(bound, _limit(quota))))


def idle_cpus(busy: float | None = None) -> int:
    """The CPUs that the process is bound to less those that are `busy` (by default as measured now); at most those that it may use, and at
    least one."""
    idle = len(os.sched_getaffinity(0)) - round(busy_cpus() if busy is None else busy)
    return max(1, min(usable_cpus(), idle))


def busy_cpus() -> float:
    """How many of the CPUs that this process is bound to other processes keep busy, measured now while this one sleeps; the load of the
    last minute where the kernel does not tell.

    That load has what this process and the command before it have computed, too.
    """
    before = _read_ticks()
    time.sleep(_SECONDS)
    busy = busy_between(before, _read_ticks(), os.sched_getaffinity(0))
    return os.getloadavg()[0] if busy is None else busy


def busy_between(before: Ticks, after: Ticks, cpus: Collection[int]) -> float | None:
    """The mean number of busy CPUs among `cpus` between two readings; None where the readings do not say."""
    shares = []
    for cpu in cpus:
        if cpu not in before or cpu not in after or after[cpu][1] <= before[cpu][1]:
            return None
        idle, every = (now - then for now, then in zip(after[cpu], before[cpu], strict=True))
        shares.append(1 - min(idle, every) / every)
    return sum(shares)


def read_ticks(text: str) -> Ticks:
    """From the text of `/proc/stat`."""
    found = {}
    for line in text.splitlines():
        name, *numbers = line.split() or [""]
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(number) for number in numbers]
            found[int(name.removeprefix("cpu"))] = (sum(ticks[_IDLE]), sum(ticks[_TICKS]))
    return found


def _read_ticks() -> Ticks:
    try:
        return read_ticks(_STAT.read_text())
    except (OSError, ValueError):
        return {}


def _limit(quota: Path) -> float:
    try:
        allowed, period = quota.read_text().split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if allowed == "max" else int(allowed) / int(period)
