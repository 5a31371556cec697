"""Reads files and folders of a store: opened, or brought into a folder of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from autoslim.core.file_lock import file_lock
from autoslim.core.files import partial_folder, replacing_file
from autoslim.errors import OutputError, StorageError
from autoslim.storage.copying import copy_each, copy_stream
from autoslim.storage.faults import explained
from autoslim.storage.file_systems import file_system
from autoslim.storage.listing import Listing, RemoteFile, file_at
from autoslim.storage.uri import StorageUri, check_relative

FETCHED = "storage"
"""In the cache folder of a user: what `fetch` has brought there."""

_TOLD_BYTES = 2**28
"""Of a download, from which on a user is told."""


@contextlib.contextmanager
def open_file(uri: StorageUri) -> Iterator[IO[bytes]]:
    """The file at `uri`, for reading from any place of it.

    Raises:
        StorageError, UnavailableError: where it cannot be opened, or read in the block.
    """
    with explained(uri, "read"), file_system(uri).open_input_file(uri.path) as file:
        yield file


def download_file(uri: StorageUri, target: Path) -> None:
    """Writes the file at `uri` to `target`, which is replaced when all of it has come.

    Raises:
        StorageError, UnavailableError: where it cannot be read.
        OutputError: where `target` cannot be written.
    """
    (file,) = file_at(uri).files
    _download(uri, target, file.size)


def fetch(listing: Listing, cache: Path, *, tell: Callable[[str], None] | None = None) -> Path:
    """The file or folder of `listing`, under its own name, in the folder `cache`: downloaded once, and found there from then on.

    Several processes may ask at once: one downloads, and the others wait. What a killed one had downloaded is kept, file by file. Content
    that has changed is in another folder, by its digest. `tell` gets a line before a long download.

    Raises:
        StorageError: where a file cannot be read, or has changed since it was listed.
        UnavailableError: for a store that does not answer.
        OutputError: where the cache cannot be written, or its disk is too small.
    """
    key = hashlib.sha256(f"{listing.uri}\0{listing.is_folder}\0{listing.digest}".encode()).hexdigest()[:16]
    target = cache / FETCHED / key
    # A bucket as a whole has no name in its path.
    name = listing.uri.name or "content"
    with _writing(target):
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(target.with_name(f"{key}.lock")):
                # Once more: who had the lock may have brought it.
                if not target.is_dir():
                    _gather(listing, partial_folder(target) / name, tell)
                    partial_folder(target).rename(target)
        # When it was used last, by which unused ones are found.
        os.utime(target)
    return target / name


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}") from error


def _gather(listing: Listing, path: Path, tell: Callable[[str], None] | None) -> None:
    """Brings the files to `path`, or below it where it is a folder; those that are there with their size are taken as they are."""
    uri, root = listing.uri, path if listing.is_folder else path.parent
    root.mkdir(parents=True, exist_ok=True)
    for left in root.rglob(".*.partial"):
        # Of a killed process; a file is begun anew.
        left.unlink()
    wanted = [file for file in listing.files if not _is_there(root, file, uri)]
    size, free = sum(file.size for file in wanted), shutil.disk_usage(root).free
    if size > free:
        raise OutputError(
            f"{uri} takes {size / 2**30:.1f} GiB, and the disk of {root} has {free / 2**30:.1f} GiB free; free some space, or set "
            "AUTOSLIM_CACHE to a folder on a larger disk"
        )
    if tell is not None and size >= _TOLD_BYTES:
        tell(f"downloading {len(wanted):,} files ({size / 2**30:.1f} GiB) of {uri}")
    copy_each(lambda file: _download(uri / file.name if listing.is_folder else uri, root / file.name, file.size), wanted)


def _is_there(root: Path, file: RemoteFile, uri: StorageUri) -> bool:
    """Whether an earlier process has brought the file: it has its name only when all of it is there (`replacing_file`), and its version is
    part of the folder's name. Raises StorageError for a name that leads out of `root`."""
    check_relative(file.name, str(uri))
    place = root / file.name
    return place.is_file() and place.stat().st_size == file.size


def _download(uri: StorageUri, target: Path, size: int) -> None:
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(target) as partial:
            with partial.open("wb") as file, explained(uri, "read"), file_system(uri).open_input_stream(uri.path) as source:
                copied = copy_stream(source, file)
            if copied != size:
                raise StorageError(
                    f"{uri} has {copied:,} bytes, and its listing says {size:,}: it was replaced meanwhile; run the same command again"
                )
