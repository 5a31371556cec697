"""`file_lock`: a lock between the processes of a machine, however long another one works while it has it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from autoslim.core import activity

_LOOK_SECONDS = 5.0
"""Between two marks. The lock itself is tried far more often."""


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds the lock at `path`, which the system releases when the process ends. Who waits is not idle: the owner is watched itself.

    Raises:
        OSError: for a file that cannot be made.
    """
    lock = filelock.FileLock(path)
    while not lock.is_locked:
        activity.mark()
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=_LOOK_SECONDS)
    try:
        yield
    finally:
        lock.release()
