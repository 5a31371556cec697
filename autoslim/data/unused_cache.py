"""Files of the user's cache folder that no search has used for long, for an operator who makes room before the limit does.

A search that runs meanwhile loses no more than time: it has opened or linked what it uses, and decodes again what it does not find.
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

from filelock import FileLock

from autoslim.core.removal import are_own, remove_within, tree_stats
from autoslim.core.user_cache import cache_folder
from autoslim.data.remote import PREPARED
from autoslim.storage import FETCHED

_PARTS = {"pixels": "*/*", "examined": "*", FETCHED: "*", PREPARED: "*"}
"""Folders of the cache, and where their files lie: decoded images (`pixel_cache`), hashes of readable images (`examined`), and by folders
what comes from object stores, as it is there (`remote`) and prepared."""

_TREES = (FETCHED, PREPARED)

_LOCK_SECONDS = 600
"""As in `pixel_cache`: what another process may take to copy a file of some gigabytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnusedFiles:
    """Of one folder of the cache; `files` are this user's, or folders that are deleted as a whole, `foreign` counts those of other users,
    which stay."""

    folder: Path
    files: Mapping[Path, os.stat_result]
    foreign: int

    @property
    def age(self) -> float:
        """Seconds since the oldest of them was used; 0 where there is none."""
        return max((time.time() - found.st_mtime for found in self.files.values()), default=0.0)

    @property
    def found(self) -> tuple[os.stat_result, ...]:
        """Of all that would be deleted."""
        return tuple(itertools.chain.from_iterable(map(tree_stats, self.files)))

    def remove(self) -> None:
        """Deletes those that were not used since they were found.

        Raises:
            OSError: for what cannot be deleted.
        """
        if not self.files:
            return
        # Also held by whoever adds decoded images and makes room for them.
        with FileLock(self.folder / "lock", timeout=_LOCK_SECONDS):
            for path, found in self.files.items():
                with contextlib.suppress(FileNotFoundError):
                    if path.lstat().st_mtime_ns == found.st_mtime_ns:
                        remove_within(path, self.folder)


def unused_files(seconds: float) -> list[UnusedFiles]:
    """Those of each folder of the cache that were used last more than so many seconds ago."""
    return [_unused(cache_folder() / name, pattern, seconds) for name, pattern in _PARTS.items()]


def _unused(folder: Path, pattern: str, seconds: float) -> UnusedFiles:
    files, foreign = dict[Path, os.stat_result](), 0
    is_kind = stat.S_ISDIR if folder.name in _TREES else stat.S_ISREG
    for path in sorted(folder.glob(pattern)):
        # Another process may delete it in between.
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if path.name == "lock" or not is_kind(found.st_mode) or time.time() - found.st_mtime <= seconds:
                continue
            if are_own(tree_stats(path)):
                files[path] = found
            else:
                foreign += 1
    return UnusedFiles(folder=folder, files=files, foreign=foreign)
