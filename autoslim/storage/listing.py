"""What lies in a store: files with their sizes and versions, and a digest of them all."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

from autoslim.errors import StorageError
from autoslim.storage.faults import explained
from autoslim.storage.file_systems import file_system
from autoslim.storage.uri import Scheme, StorageUri, check_relative

MOST_FILES = 4_000_000
"""That are listed of one folder: three times the images of ImageNet."""


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteFile:
    """`name` is relative to the folder that was listed, and of a file that was asked for the last part of its path; `size` is bytes.

    `version` changes when the file is replaced: the time of its last change (ns), of `hf://` the hash of its content, and empty where a
    store says neither. Listings of S3 through pyarrow have no ETags; each would take a request of its own.
    """

    name: str
    size: int
    version: str


def stat(uri: StorageUri) -> RemoteFile | None:
    """The file at `uri`, and None where there is none: for nothing, or for a folder.

    Raises:
        StorageError, UnavailableError: as `explained`.
    """
    from pyarrow.fs import FileType

    with explained(uri, "read"):
        found = file_system(uri).get_file_info(uri.path)
        if found.type != FileType.File:
            return None
        return RemoteFile(uri.name, int(found.size), _versions(uri).get(found.path) or _time_of(found))


def list_files(uri: StorageUri) -> list[RemoteFile]:
    """Every file in the folder at `uri`, at any depth, in the order of their names; one request for about a thousand of them.

    Raises:
        StorageError: where there is no such folder or nothing in it, there are more than `MOST_FILES`, or a name could lead out of a folder
            that it is written to.
        UnavailableError: for a store that does not answer.
    """
    from pyarrow.fs import FileSelector, FileType

    with explained(uri, "listed"):
        # Of a bucket that is not there the listing says so, and of a folder that is not there, too.
        infos = file_system(uri).get_file_info(FileSelector(uri.path, recursive=True))
        versions = _versions(uri)
    root = uri.path.rstrip("/") + "/"
    files = [
        RemoteFile(info.path.removeprefix(root), int(info.size), versions.get(info.path) or _time_of(info))
        for info in infos
        if info.type == FileType.File and not _is_left(info.path)
    ]
    if not files:
        raise StorageError(f"{uri} has no files; check the path, and list its parent")
    if len(files) > MOST_FILES:
        raise StorageError(
            f"{uri} has {len(files):,} files; allowed: at most {MOST_FILES:,}; pack the images into Parquet files or tars"
        )
    for file in files:
        check_relative(file.name, str(uri))
    return sorted(files, key=lambda file: file.name)


@dataclasses.dataclass(frozen=True)
class Listing:
    """What lies at a URI: one file, or the files of a folder, at any depth."""

    uri: StorageUri
    files: tuple[RemoteFile, ...]
    is_folder: bool

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the content without reading it: SHA-256 over names, sizes and versions, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name}\0{file.size}\0{file.version}\n".encode())
        return digest.hexdigest()[:16]

    def only(self, wanted: Callable[[str], bool]) -> Listing:
        """The files of such names; there may be none."""
        return dataclasses.replace(self, files=tuple(file for file in self.files if wanted(file.name)))


def look(uri: StorageUri) -> Listing:
    """The file or folder at `uri`. Raises StorageError where there is none, and otherwise as `list_files`."""
    single = stat(uri)
    return Listing(uri, tuple(list_files(uri)), is_folder=True) if single is None else Listing(uri, (single,), is_folder=False)


def file_at(uri: StorageUri) -> Listing:
    """The file at `uri`. Raises StorageError where there is none, and otherwise as `explained`."""
    found = stat(uri)
    if found is None:
        raise StorageError(f"{uri} is no file; allowed: a file that is there; check the {uri.holder} and the path")
    return Listing(uri, (found,), is_folder=False)


def _is_left(path: str) -> bool:
    """Whether it is no file of a user's: an empty object whose name ends in a slash, with which consoles show an empty folder, or what a
    killed process has left of a file (`upload_file`)."""
    name = path.rpartition("/")[2]
    return not name or (name.startswith(".") and name.endswith(".partial"))


def _time_of(info: Any) -> str:
    return "" if info.mtime_ns is None else str(info.mtime_ns)


def _versions(uri: StorageUri) -> dict[str, str]:
    """Hashes by path, of the one store whose listing has no times but hashes."""
    if uri.scheme is not Scheme.HUGGING_FACE:
        return {}
    found = file_system(uri).handler.fs.find(uri.path, detail=True)
    return {path: str(info.get("blob_id") or "") for path, info in found.items()}
