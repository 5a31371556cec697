"""`ProcessIdentity`: a process beyond its number, which the system uses again, and which means another process on another machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os

import psutil

from autoslim.core.pid_namespace import pid_namespace
from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessIdentity(Record):
    """`space` is the boot and the namespace in which `pid` counts, `started` the clock ticks from the boot to the process's start.

    Ticks and not a time of day, which changes for a living process when the system's clock is set.
    """

    pid: int
    space: str
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        return cls(pid=pid, space=pid_namespace(), started=_inspect(pid)[1])

    def is_here(self) -> bool:
        """Whether its number means anything on this machine now."""
        return self.space == pid_namespace()

    def is_dead(self) -> bool:
        """Whether it is known to have ended; False for a process of another machine. A zombie has ended."""
        if not self.is_here():
            return False
        status, started = _inspect(self.pid)
        return status in ("", psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) or started != self.started

    def reap(self) -> None:
        """Lets the system forget an ended process that this one has started; it does nothing for any other."""
        # Of a zombie the number is not used again, so that no other child's exit is taken from whoever waits for it.
        if self.is_here() and _inspect(self.pid) == (psutil.STATUS_ZOMBIE, self.started):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)


def _inspect(pid: int) -> tuple[str, str]:
    """Status and start; empty for a process that does not exist."""
    try:
        process = psutil.Process(pid)
        # psutil adds the boot's time of day to the ticks; subtracting it again leaves what the clock does not change.
        seconds = process.create_time() - psutil.boot_time()
        return process.status(), str(round(seconds * os.sysconf("SC_CLK_TCK")))
    except psutil.NoSuchProcess:
        return "", ""
