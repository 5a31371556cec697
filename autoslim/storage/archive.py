"""A folder as one object, a tar, or a large one in pieces: a reader finds all of it or nothing, also while it replaces an older one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from autoslim.core import activity
from autoslim.core.files import publish_folder
from autoslim.errors import StorageError
from autoslim.storage.copying import copy_stream
from autoslim.storage.faults import explained
from autoslim.storage.listing import stat
from autoslim.storage.pieces import open_pieces, replacing_pieces
from autoslim.storage.uri import StorageUri

_log = logging.getLogger(__name__)

_END = ".end"
"""The last member: an archive without it was cut off between two others, which its format would not show."""

_BUFFER = 8 * 2**20
"""Bytes that are read or written at once: each read of an object is a request, and a part of an upload to S3 has at least five million."""

_BLOCK = 2**16
"""Bytes that tarfile takes at once; with each file's head it copies what is left of them."""


def pack_folder(folder: Path, uri: StorageUri) -> None:
    """Writes every file in `folder`, at any depth, to the archive at `uri`; links are followed.

    Raises:
        StorageError, UnavailableError: where it cannot be written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    size, version = _measured(folder, names)
    with (
        explained(uri, "written"),
        replacing_pieces(uri, size=size, version=version) as stream,
        tarfile.TarFile(fileobj=stream, mode="w", dereference=True, copybufsize=_BUFFER) as archive,
    ):
        for name in names:
            member = _anonymous(archive.gettarinfo(folder / name, arcname=name))
            with (folder / name).open("rb") as file:
                archive.addfile(member, _Alive(file))
        archive.addfile(tarfile.TarInfo(_END), io.BytesIO())


def unpack_folder(uri: StorageUri, destination: Path) -> bool:
    """Replaces `destination` by what the archive at `uri` has; false where there is none, or one that was cut off.

    Raises:
        StorageError, UnavailableError: where it cannot be read.
    """
    while (found := stat(uri)) is not None:
        try:
            with publish_folder(destination) as partial:
                with explained(uri, "read"), open_pieces(uri, size=found.size, buffer_size=_BUFFER) as stream:
                    _extract(stream, partial)
                if not (partial / _END).is_file():
                    raise _CutOffError
                (partial / _END).unlink()
                return True
        except StorageError:
            # Its pieces may be gone, of which a store reads what is still missing, and not what was open: it was replaced meanwhile.
            if stat(uri) == found:
                raise
        except _CutOffError:
            # Else it was replaced meanwhile, and its pieces were deleted.
            if stat(uri) == found:
                _log.warning("%s is cut off, and counts as missing", uri)
                return False
    return False


class _CutOffError(Exception):
    """The archive ends too early."""


def _extract(stream: IO[bytes], folder: Path) -> None:
    # Of what is cut off the last member is missing, by which it is noticed.
    with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as archive:
        # tarfile has a filter for this, but not in Python 3.11.0 to 3.11.3.
        for member in archive:
            activity.mark()
            name = PurePosixPath(member.name)
            if not member.isreg() or name.is_absolute() or ".." in name.parts:
                raise ValueError(
                    f"its member {member.name!r} is no file in the folder; allowed: files, with names that stay in it"
                )
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            assert content is not None
            with place.open("wb") as file:
                copy_stream(content, file)


def _measured(folder: Path, names: list[str]) -> tuple[int, str]:
    """About how many bytes the archive takes, and what no folder of other content has: a digest of names, sizes and times."""
    size, digest = 0, hashlib.sha256()
    for name in names:
        found = (folder / name).stat()
        size += found.st_size
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return size, digest.hexdigest()[:16]


class _Alive:
    """A file each part of which is a sign of life as it is read: to write a large one to an object store takes hours."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        activity.mark()
        return self._file.read(size)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the user's name."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
