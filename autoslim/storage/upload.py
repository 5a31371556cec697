"""Writes files and folders to a store. A reader finds a file complete or not at all; of a folder, the last file says that it is whole."""

from __future__ import annotations

from pathlib import Path

from autoslim.storage.copying import copy_each, copy_stream
from autoslim.storage.faults import explained
from autoslim.storage.objects import replacing_object
from autoslim.storage.uri import StorageUri


def upload_file(path: Path, uri: StorageUri) -> None:
    """Writes the file at `path` to `uri`, in the place of what is there.

    Raises:
        StorageError: for a store that cannot be written.
        UnavailableError: for one that does not answer.
        OSError: for a file that cannot be read.
    """
    with path.open("rb") as source, explained(uri, "written"), replacing_object(uri) as target:
        copy_stream(source, target)


def upload_folder(folder: Path, uri: StorageUri, *, last: str | None = None) -> None:
    """Writes every file in `folder`, at any depth, to the same name below `uri`; what else is there stays.

    Args:
        folder: Links to files are followed, and links to folders are not.
        uri: Where no folder has to be.
        last: Name of the file, relative to `folder`, that says that the folder is whole: it is written when all others are. A reader that
            finds it there finds the others.

    Raises:
        StorageError, UnavailableError, OSError: as `upload_file`; other files may have been written by then, but `last` has not.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    copy_each(lambda name: upload_file(folder / name, uri / name), [name for name in names if name != last])
    if last is not None:
        upload_file(folder / last, uri / last)
