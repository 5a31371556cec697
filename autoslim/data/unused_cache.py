"""Files of the user's cache folder that no search has used for long, for an operator who makes room before the limit does.

A search that runs meanwhile loses no more than time: it has opened or linked what it uses, and decodes again what it does not find. Only
the folder that it works in, where its output is in an object store, must stay while it runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from autoslim.core.file_lock import remove_left_lock_files
from autoslim.core.folder_lock import LOCK
from autoslim.core.removal import are_own, remove_within, tree_stats
from autoslim.core.user_cache import cache_folder
from autoslim.data.prepared_folder import PREPARED
from autoslim.storage import FETCHED
from autoslim.storage.mirror import RUNS

_PARTS = {"pixels": "*/*", "examined": "*", FETCHED: "*", PREPARED: "*", RUNS: "*"}
"""Folders of the cache, and where their files lie: decoded images (`pixel_cache`), hashes of readable images (`examined`), and by folders
what comes from object stores, as it is there (`remote`), prepared sets (`remote`, `kept_set`), and what belongs to outputs in an object
store (`storage.mirror`)."""

_TREES = (FETCHED, PREPARED, RUNS)

_RUN_SECONDS = 86_400.0
"""A search's folder stays for a day whatever age is asked for: on a node without the driver nothing but its files' age says that trials
work in it, and an epoch may take hours."""

_LOCK_SECONDS = 600
"""As in `pixel_cache`: what another process may take to copy a file of some gigabytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnusedFiles:
    """Of one folder of the cache; `files` are this user's, or folders that are deleted as a whole, with the times of their last use, in
    nanoseconds. What stays: `foreign` counts those of other users, a search works in `busy`."""

    folder: Path
    files: Mapping[Path, int]
    foreign: int
    busy: tuple[Path, ...] = ()

    @property
    def age(self) -> float:
        """Seconds since the oldest of them was used; 0 where there is none."""
        return max((time.time() - used / 1e9 for used in self.files.values()), default=0.0)

    @property
    def found(self) -> tuple[os.stat_result, ...]:
        """Of all that would be deleted."""
        return tuple(itertools.chain.from_iterable(map(tree_stats, self.files)))

    def remove(self) -> None:
        """Deletes those that were not used since they were found, and the files of their locks.

        Raises:
            OSError: for what cannot be deleted.
        """
        if not self.files:
            return
        # Also held by whoever adds decoded images and makes room for them.
        with FileLock(self.folder / "lock", timeout=_LOCK_SECONDS):
            for path, used in self.files.items():
                with contextlib.suppress(FileNotFoundError, Timeout), _search_lock(path):
                    if _last_use(path) == used:
                        remove_within(path, self.folder)
            # Also those of sets that made room for others.
            remove_left_lock_files(self.folder)


def unused_files(seconds: float) -> list[UnusedFiles]:
    """Those of each folder of the cache that were used last more than so many seconds ago."""
    return [_unused(cache_folder() / name, pattern, seconds) for name, pattern in _PARTS.items()]


def _unused(folder: Path, pattern: str, seconds: float) -> UnusedFiles:
    files, busy, foreign = dict[Path, int](), [], 0
    is_kind = stat.S_ISDIR if folder.name in _TREES else stat.S_ISREG
    oldest = time.time() - (max(seconds, _RUN_SECONDS) if folder.name == RUNS else seconds)
    for path in sorted(folder.glob(pattern)):
        # Another process may delete it in between.
        with contextlib.suppress(FileNotFoundError):
            if path.name == "lock" or not is_kind(path.lstat().st_mode) or (used := _last_use(path)) >= oldest * 1e9:
                continue
            if not are_own(tree_stats(path)):
                foreign += 1
            elif _is_busy(path):
                busy.append(path)
            else:
                files[path] = used
    return UnusedFiles(folder=folder, files=files, foreign=foreign, busy=tuple(busy))


def _last_use(path: Path) -> int:
    """In nanoseconds. A search writes somewhere below its folder; all else is touched itself when it is used."""
    own = path.lstat().st_mtime_ns
    if path.parent.name != RUNS:
        return own
    # Whoever asks for the lock writes to its file.
    parts = (entry for entry in path.iterdir() if entry.name != LOCK)
    return max((found.st_mtime_ns for part in parts for found in tree_stats(part)), default=own)


def _search_lock(path: Path) -> contextlib.AbstractContextManager[object]:
    """Raises Timeout where a search's driver works in the folder, which it has locked for as long as it lives (`FolderLock`)."""
    lock = path / LOCK
    return FileLock(lock, timeout=0) if lock.is_file() else contextlib.nullcontext()


def _is_busy(path: Path) -> bool:
    try:
        with _search_lock(path):
            return False
    except Timeout:
        return True
