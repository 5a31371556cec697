"""`scratch_folder`: where a command without an output has a data set while it runs, such as `autoslim plan`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from autoslim.core.folder_lock import LOCK
from autoslim.core.user_cache import cache_limit
from autoslim.data.remote import make_prepared_folder


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields an empty folder that is deleted at the end. It lies beside the sets that the user's cache keeps, so that they can be linked
    into it whatever their size; or where temporary files lie, if there are none or the cache cannot be written.

    What a killed process leaves there is deleted as sets are that are not used any more (`unused_cache`), which the lock is for.
    """
    with contextlib.ExitStack() as stack:
        yield _beside_kept_sets(stack) or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoslim-")))


def _beside_kept_sets(stack: contextlib.ExitStack) -> Path | None:
    if not cache_limit():
        return None
    try:
        parent = make_prepared_folder()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scratch-", dir=parent)))
        stack.enter_context(filelock.FileLock(folder / LOCK, timeout=0))
    except (OSError, NotImplementedError):
        return None
    # A folder of its own: the lock's file is no part of what a caller finds.
    own = folder / "data"
    os.mkdir(own)
    return own
