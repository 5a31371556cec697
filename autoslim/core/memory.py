"""The memory that this process may use. Linux, with the standard library alone."""

from __future__ import annotations

import os
from pathlib import Path

_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Bytes that a container may use (cgroup v2)."""


def usable_memory(limit: Path = _LIMIT) -> int:
    """Bytes: the machine's memory, at most that of the container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = limit.read_text().strip()
    except OSError:
        return machine
    return min(machine, int(text)) if text.isdecimal() else machine
