"""Decoded images that are kept for later searches in the user's cache folder: files as of `pixel_file`, each with one split of a data set.

An image is found by the hash of its encoded bytes, so that it does not matter where it lies, in which split it is or what else changed.
That also keeps users of one cache apart, such as the tenants of a service: only who has an image's bytes can ask for its pixels, which
follow from them. What is read is checked; a file that is gone or damaged, or a disk that is full, costs time and never a pixel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
from filelock import FileLock

from autoslim.core.files import is_unfinished, replacing_file
from autoslim.core.user_cache import FOLDER, LIMIT, cache_folder, cache_limit
from autoslim.data.decode import decoder_version
from autoslim.data.hashes import Hashes
from autoslim.data.map_ahead import map_ahead
from autoslim.data.pixel_collector import PixelCollector
from autoslim.data.pixel_file import CheckedFile, Keys, check_of, write_pixels
from autoslim.data.table import Indices

_SUFFIX = ".pixels"
_LOCK_SECONDS = 600
"""What another process may take to copy a file of some gigabytes."""
_LEFTOVER_SECONDS = 86_400
"""After which a file that was not finished is one of a process that was killed."""

Decode = Callable[[int], bytes]
"""Gives the pixels of the image of an index; called by several threads."""

_log = logging.getLogger(__name__)


class PixelCache:
    """Decoded images of one `size` (H, W), by this decoder; `limit` bounds the bytes of all sizes and decoders together, in `root`,
    and none are kept or read where it is 0."""

    def __init__(self, root: Path, size: tuple[int, int], *, limit: int) -> None:
        self._root, self._size, self._limit = root, size, limit
        decoder = hashlib.blake2b(decoder_version().encode(), digest_size=8).hexdigest()
        self._folder = root / f"{decoder}-{size[0]}x{size[1]}"

    @classmethod
    def of_user(cls, size: tuple[int, int]) -> Self:
        return cls(cache_folder() / "pixels", size, limit=cache_limit())

    def count(self, keys: Keys) -> int:
        """How many of the images are kept; whether they are whole is not looked at."""
        with contextlib.ExitStack() as stack:
            return int((self._find(keys, stack).file >= 0).sum())

    @contextlib.contextmanager
    def collecting(self) -> Iterator[PixelCollector]:
        """Collects images that are not kept yet while they are examined. They are kept file by file, and from the end of the block on all
        of them, also after an error: when the data set is mended, or the preparation was killed, only what is new is decoded."""
        collector = PixelCollector(self._folder, self._size, self._all_keys(), limit=self._limit, keep=self._keep_collected)
        try:
            yield collector
        finally:
            collector.finish()

    def write(self, path: Path, keys: Keys, decode: Decode) -> None:
        """Writes the images of `keys` to `path`: those that are kept, and, decoded, the others, which are kept from now on.

        Raises:
            OSError: for a `path` that cannot be written.
        """
        kept = self._folder / f"{hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()}{_SUFFIX}"
        if self._limit and self._take_whole(kept, path, keys):
            _touch(kept)
            return
        # Splits with another seed have other images each, but all of them are kept already.
        if self._write_found(path, keys, decode) and self._limit:
            self._keep(path, kept)

    def _take_whole(self, kept: Path, path: Path, keys: Keys) -> bool:
        """The same images in the same order, such as those of an unchanged data set: one file for both, which takes no space again."""
        try:
            _link_or_copy(kept, path)
            with CheckedFile(path, self._size) as file:
                if np.array_equal(file.keys, keys) and _all_fit(file):
                    return True
        except OSError:
            # It is not there, or not to be read. Where `path` cannot be written, writing the images one by one says so.
            pass
        # Deleted, not written over: it may be the file in the cache.
        path.unlink(missing_ok=True)
        return False

    def _write_found(self, path: Path, keys: Keys, decode: Decode) -> int:
        """Image by image; returns how many were decoded."""
        decoded, damaged = 0, set[Path]()
        with contextlib.ExitStack() as stack:
            found = self._find(keys, stack)

            def pixels_of(index: int) -> tuple[bytes, bytes, Path | None, bool]:
                """Pixels, check, the file that should have had them, and whether they are decoded."""
                file = found.files[found.file[index]] if found.file[index] >= 0 else None
                kept = None if file is None else file.checked(int(found.row[index]))
                if kept is not None:
                    return *kept, None, False
                pixels = decode(index)
                return pixels, check_of(pixels, keys[index].tobytes()), None if file is None else file.path, True

            def images() -> Iterator[tuple[bytes, bytes]]:
                nonlocal decoded
                for pixels, check, wrong, new in map_ahead(pixels_of, range(len(keys))):
                    decoded += new
                    damaged.update([] if wrong is None else [wrong])
                    yield pixels, check

            write_pixels(path, keys, images())
            used = {file.path for file in found.files} - damaged
        for file_path in used:
            _touch(file_path)
        # What is damaged in them is not used again, and they are among the first that are deleted.
        for file_path in damaged:
            _log.warning("%s is damaged: what does not fit was decoded again", file_path)
        return decoded

    def _all_keys(self) -> Hashes:
        """Of the images that are kept; whether they are whole is looked at when they are read."""
        found = []
        for _, _, path in _listed(self._folder, "*") if self._limit else ():
            # What cannot be read is told when images are looked for.
            with contextlib.suppress(OSError), CheckedFile(path, self._size) as file:
                found.append(file.keys.tobytes())
        return Hashes(b"".join(found))

    def _keep_collected(self, path: Path) -> None:
        with FileLock(self._root / "lock", timeout=_LOCK_SECONDS):
            self._make_room(path.stat().st_size)
            path.replace(self._folder / f"{uuid.uuid4().hex}{_SUFFIX}")

    def _find(self, keys: Keys, stack: contextlib.ExitStack) -> _Found:
        """Where the images are, in files that are open until `stack` ends; those that are used last are looked into first."""
        found = _Found(file=np.full(len(keys), -1), row=np.zeros(len(keys), np.int64), files=[])
        for _, _, path in sorted(_listed(self._folder, "*"), reverse=True) if self._limit else ():
            missing = np.flatnonzero(found.file < 0)
            if not len(missing):
                break
            with contextlib.ExitStack() as own:
                try:
                    file = own.enter_context(CheckedFile(path, self._size))
                except FileNotFoundError:
                    # Another process made room.
                    continue
                except OSError as error:
                    _log.warning("decoded images are passed over: %s", error)
                    continue
                rows = file.rows_of(keys[missing])
                here = rows >= 0
                if here.any():
                    found.file[missing[here]], found.row[missing[here]] = len(found.files), rows[here]
                    found.files.append(file)
                    stack.enter_context(own.pop_all())
        return found

    def _keep(self, path: Path, kept: Path) -> None:
        size = path.stat().st_size
        if size > self._limit:
            _log.warning(
                "the decoded images of %s take %d bytes and are not kept for later searches; allowed: %d (%s)",
                path,
                size,
                self._limit,
                LIMIT,
            )
            return
        try:
            # For its owner alone, as nobody else needs them; the output folder may be shared.
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(exist_ok=True)
            # One process at a time, so that two together keep to the limit.
            with FileLock(self._root / "lock", timeout=_LOCK_SECONDS):
                self._make_room(size)
                with replacing_file(kept) as partial:
                    _link_or_copy(path, partial, spare=size)
        except OSError as error:
            _log.warning(
                "decoded images cannot be kept in %s (%s): they are decoded again next time; %s names another folder",
                self._folder,
                error,
                FOLDER,
            )
        else:
            _touch(kept)

    def _make_room(self, needed: int) -> None:
        """Deletes what was not used for the longest time."""
        files = sorted(_listed(self._root, "*/*"))
        total = needed + sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= size
        for path in self._root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                if is_unfinished(path.name) and time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """Of each image the place in `files` (N,), -1 for none, and its row there (N,)."""

    file: Indices
    row: Indices
    files: list[CheckedFile]


def _listed(folder: Path, pattern: str) -> list[tuple[float, int, Path]]:
    """When it was used last, bytes and path of each file."""
    found = []
    for path in folder.glob(f"{pattern}{_SUFFIX}"):
        # Another process may delete it in between.
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    return found


def _all_fit(file: CheckedFile) -> bool:
    return all(map_ahead(lambda row: file.checked(row) is not None, range(len(file))))


def _link_or_copy(source: Path, destination: Path, *, spare: int = 0) -> None:
    """A hard link where both are in one file system, else a copy, after which `spare` bytes stay free."""
    try:
        os.link(source, destination)
    except FileNotFoundError:
        raise
    except OSError:
        # Another file system, or one without links; a file of somebody else.
        if spare and shutil.disk_usage(destination.parent).free < source.stat().st_size + spare:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(destination.parent)) from None
        shutil.copyfile(source, destination)


def _touch(path: Path) -> None:
    """The time of a file says when it was used last."""
    with contextlib.suppress(OSError):
        # It is deleted, or belongs to somebody else, whose searches say when it is used.
        os.utime(path)
