"""The namespace in which a process number means one process."""

from __future__ import annotations

import functools
import os
from pathlib import Path


@functools.cache
def pid_namespace() -> str:
    """This boot of this kernel and this PID namespace; empty where the system has no /proc, and numbers of other machines look alike."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""
