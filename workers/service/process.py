"""Who a process is, beyond its number: numbers are given again, and mean another process on another machine."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from autoslim.core.pid_namespace import pid_namespace
from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process(Record):
    """`space` is the boot and the namespace that `pid` counts in, `started` the kernel's ticks from the boot to its start.

    Where the system does not tell them (no /proc), they are empty, and a process is known by its number alone.
    """

    pid: int
    space: str
    started: str

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid=pid, space=pid_namespace(), started=_stat(pid)[1])

    def is_here(self) -> bool:
        """Whether its number means anything on this machine now."""
        return self.space == pid_namespace()

    def is_dead(self) -> bool:
        """Whether it is known to have ended. One that waits to be collected by its parent has."""
        if not self.is_here():
            return False
        if not self.space:
            return not _answers(self.pid)
        state, started = _stat(self.pid)
        return state in ("", "Z", "X") or started != self.started


def _stat(pid: int) -> tuple[str, str]:
    """Its state, a letter, and its start; empty for one that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    # The command's name, in brackets, may hold blanks and brackets itself.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
