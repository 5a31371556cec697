"""`scratch_folder`: where a command without an output has a data set while it runs, such as `autoslim plan`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from autoslim.core.folder_lock import LOCK
from autoslim.core.user_cache import cache_limit
from autoslim.data.prepared_folder import make_prepared_folder

_PREFIX = "scratch-"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields an empty folder that is deleted at the end. It lies beside the sets that the user's cache keeps, so that they can be linked
    into it whatever their size; or where temporary files lie, if there are none or the cache cannot be written.

    What a killed process leaves there is deleted later (`remove_left_folders`, `unused_cache`), which the lock is for.
    """
    with contextlib.ExitStack() as stack:
        yield _beside_kept_sets(stack) or _temporary(stack, prefix="autoslim-")


def remove_left_folders(parent: Path, seconds: float) -> None:
    """Deletes those in `parent` that were made more than so many seconds ago, and that no command works in."""
    for folder in parent.glob(f"{_PREFIX}*"):
        # Deleted meanwhile; somebody else's, or a file system without locks; a timeout, which is an OSError: in use.
        with contextlib.suppress(OSError, NotImplementedError):
            if time.time() - folder.stat().st_mtime > seconds:
                with filelock.FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


def _temporary(stack: contextlib.ExitStack, prefix: str, parent: Path | None = None) -> Path:
    # NFS keeps the name of a deleted file that is still open: a folder that is not empty must not cost the command its result.
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)))


def _beside_kept_sets(stack: contextlib.ExitStack) -> Path | None:
    if not cache_limit():
        return None
    try:
        folder = _temporary(stack, prefix=_PREFIX, parent=make_prepared_folder())
        stack.enter_context(filelock.FileLock(folder / LOCK, timeout=0))
    except (OSError, NotImplementedError):
        return None
    # A folder of its own: the lock's file is no part of what a caller finds.
    own = folder / "data"
    os.mkdir(own)
    return own
