"""Files and folders that a reader finds complete or not at all.

Everything is written under a temporary name beside its destination and renamed: a rename within one file system is atomic. A process
that is killed leaves a name that ends in `.partial` (or holds `.partial-`), which no reader takes for a result.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from autoslim.core.causes import cause_chain
from autoslim.errors import DiskFullError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file at `path` by `content` (text as UTF-8), which is on the disk before the old file goes."""
    with replacing_file(path) as partial, partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        # Without this a power failure after the rename may leave an empty file: file systems may write the name before the data.
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to; it replaces `path` when the block ends without an error, and is deleted otherwise."""
    # A unique name, because two processes may write the same cache entry; hidden, because folders are listed while they are written to.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def publish_folder(destination: Path, *, contested: bool = False, left: bool = False) -> Iterator[Path]:
    """Yields an empty folder; it becomes `destination` when the block ends without an error, and is deleted otherwise.

    Args:
        destination: An existing folder there is replaced, unless `contested`.
        contested: Several processes may publish `destination` at once. Each writes to a folder of its own; the first one wins.
        left: What an interrupt has ended is not deleted; an error's remains are.

    Raises:
        OSError: if the folder cannot be written or renamed; when `contested`, also if `destination` exists by then.
    """
    partial = (
        destination.with_name(f"{destination.name}.partial-{uuid.uuid4().hex}") if contested else partial_folder(destination)
    )
    # One that a killed process left, where there is only one writer.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        move_folder(partial, destination, replace=not contested)
    except BaseException as error:
        if isinstance(error, Exception) or not left:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def short_path(path: str) -> str:
    """Within the working directory relative to it, as users type it; any other, and a URI, as it is."""
    found, here = Path(path), Path.cwd()
    return str(found.relative_to(here)) if found.is_absolute() and found != here and found.is_relative_to(here) else path


def partial_folder(destination: Path) -> Path:
    """Where the only writer of `destination` gathers its content, in more than one step if need be, until `move_folder`."""
    return destination.with_name(destination.name + ".partial")


def previous_folder(destination: Path) -> Path:
    """Where `destination` is found if a process was killed between the two renames of `move_folder`."""
    return destination.with_name(destination.name + ".old")


def is_unfinished(name: str) -> bool:
    """Whether a file or folder of this name is being written or replaced, or was left so by a killed process."""
    return name.endswith((".partial", ".old")) or ".partial-" in name


def move_folder(folder: Path, destination: Path, *, replace: bool = True) -> None:
    """Renames `folder` to `destination`, which is on the same file system.

    A folder that is replaced is moved to `previous_folder` first, since a rename cannot replace a folder that holds something.

    Raises:
        OSError: if the rename fails, or `replace` is false and `destination` holds something.
    """
    previous = previous_folder(destination)
    if replace and destination.exists():
        shutil.rmtree(previous, ignore_errors=True)
        destination.rename(previous)
    try:
        folder.rename(destination)
    except OSError:
        # Readers must not lose the old folder to a rename that failed.
        if replace and previous.exists() and not destination.exists():
            previous.rename(destination)
        raise
    if replace:
        shutil.rmtree(previous, ignore_errors=True)


def disk_full_error(folder: Path | str, then: str) -> DiskFullError:
    """That the disk of `folder` is full; `then` is what the user does after making space."""
    return DiskFullError(f"the disk is full at {folder}; free some space and {then}")


def is_disk_full(error: BaseException) -> bool:
    """Whether this error, or one that caused it, says that the disk or the quota is full."""
    for link in cause_chain(error, contexts=True):
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # SQLite, PyTorch and `disk_full_error` report a full disk as text only.
        if "disk is full" in str(link) or "No space left" in str(link):
            return True
    return False
