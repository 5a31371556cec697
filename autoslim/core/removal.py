"""What deleting files and folders would free, whose they are, and deleting them without following a link."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from autoslim.core.confine import confined


def tree_stats(path: Path) -> Iterator[os.stat_result]:
    """Of the file or link, or of the folder and everything beneath it; nothing for a path that does not exist.

    Raises:
        OSError: for a folder that cannot be read.
    """
    try:
        found = path.lstat()
        yield found
        if stat.S_ISDIR(found.st_mode):
            for entry in sorted(path.iterdir()):
                yield from tree_stats(entry)
    except FileNotFoundError:
        # Deleted meanwhile.
        return


def are_own(found: Iterable[os.stat_result]) -> bool:
    """Whether everything belongs to this process's user."""
    return all(each.st_uid == os.geteuid() for each in found)


def disk_bytes(found: Iterable[os.stat_result]) -> int:
    """Bytes of the files, a file with several names once."""
    return sum(bytes for bytes, _ in _files(found))


def freed_bytes(found: Iterable[os.stat_result]) -> int:
    """Those of `disk_bytes` that are free when all of it is deleted: a file with another name elsewhere stays."""
    return sum(bytes for bytes, whole in _files(found) if whole)


def _files(found: Iterable[os.stat_result]) -> Iterator[tuple[int, bool]]:
    """Bytes of each file, and whether all its names are among them."""
    files = [each for each in found if stat.S_ISREG(each.st_mode)]
    names = Counter((each.st_dev, each.st_ino) for each in files)
    for each in {(each.st_dev, each.st_ino): each for each in files}.values():
        yield each.st_size, names[each.st_dev, each.st_ino] >= each.st_nlink


def remove_within(path: Path, root: Path) -> None:
    """Deletes a file, or a folder with all that it holds; links in it are deleted, and what they lead to stays.

    Raises:
        OSError: for a path that is a link or does not lie within `root`, and for what cannot be deleted.
    """
    if path.is_symlink() or confined(path, root) in (None, root.resolve()):
        raise OSError(errno.EPERM, f"it is a link or does not lie within {root}", str(path))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
