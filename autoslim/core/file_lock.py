"""`file_lock`: a lock between the processes of a machine, however long another one works while it has it; and files of locks that are left.

A lock's file stays when the lock is released, and the system releases it when its process ends. A file may be deleted by whoever has its
lock: filelock looks, when it has locked a file, whether that is still in its folder, and otherwise tries anew with the one that is there.
"""

from __future__ import annotations

import contextlib
import os
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


def remove_lock_file(path: Path, *beside: Path) -> bool:
    """Deletes the file of a lock, and before it those `beside` it; False, with nothing deleted, where a process has the lock.

    Raises:
        OSError: for a file that cannot be opened or deleted.
        NotImplementedError: on a file system without locks.
    """
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    try:
        for file in (*beside, path):
            file.unlink(missing_ok=True)
    finally:
        lock.release()
    return True


def remove_left_lock_files(folder: Path) -> None:
    """Deletes each `NAME.lock` in `folder` that nobody has and that has no NAME beside it: it was made, and deleted, under the lock.

    A file that cannot be deleted, such as another user's, stays.
    """
    for path in folder.glob("[!.]*.lock"):
        if not os.path.lexists(path.with_suffix("")):
            with contextlib.suppress(OSError, NotImplementedError):
                remove_lock_file(path)
