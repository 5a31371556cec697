"""`FolderLock`: one process at a time works in an output folder, and a folder is one search's, one slimmed model's, or a service's.

What a command finds in the folder holds until it has written its own mark there: it looks and writes while it has the lock.
"""

from __future__ import annotations

import enum
from pathlib import Path

import filelock

from autoslim.errors import OutputError

LOCK = ".lock"


class FolderUse(enum.StrEnum):
    """The command that a folder belongs to; the value is its name."""

    SEARCH = "search"
    SLIM = "slim"
    REPRODUCE = "reproduce"
    SERVE = "serve"


_MARKS = {
    FolderUse.SEARCH: "job.json",
    FolderUse.SLIM: "slim.json",
    FolderUse.REPRODUCE: "reproduce.json",
    FolderUse.SERVE: "service",
}
"""The file that says what a folder is."""


class FolderLock:
    """A context manager. The system releases the lock when the process ends, however it ends.

    The file stays: where it were deleted, a process that has opened it before and one that makes it anew could both have a lock.
    """

    def __init__(self, root: Path, use: FolderUse) -> None:
        self._root, self._use = root, use
        self._lock = filelock.FileLock(root / LOCK)

    def __enter__(self) -> FolderLock:
        """Raises OutputError when the folder cannot be written, is another command's, or another process works in it."""
        refuse_other_use(self._root, self._use)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            running = used_for(self._root) or self._use
            raise OutputError(
                f"output folder {self._root}: another autoslim {running} is running there; wait for its end or choose another folder"
            ) from error
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"output folder {self._root} cannot be written: {reason}") from error
        try:
            # Once more: another command may have begun in between.
            refuse_other_use(self._root, self._use)
        except OutputError:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def used_for(root: Path) -> FolderUse | None:
    for use, mark in _MARKS.items():
        if (root / mark).is_file():
            return use
    # A service's folder of an earlier version has no mark.
    return FolderUse.SERVE if (root / "jobs").is_dir() else None


def refuse_other_use(root: Path, use: FolderUse) -> None:
    """Raises OutputError where the folder is another command's."""
    found = used_for(root)
    if found not in (None, use):
        raise OutputError(f"{root} is the folder of an autoslim {found}; choose another folder for autoslim {use}")


def mark_as_service_folder(root: Path) -> None:
    """Marks the folder as a service's. API and supervisors share it, so that none of them keeps the lock.

    Raises:
        OutputError: when it cannot be written, or is a search's or a slimmed model's.
    """
    if used_for(root) is FolderUse.SERVE and (root / _MARKS[FolderUse.SERVE]).is_file():
        return
    with FolderLock(root, FolderUse.SERVE):
        (root / _MARKS[FolderUse.SERVE]).touch(mode=0o600)
