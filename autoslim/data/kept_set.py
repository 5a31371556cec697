"""Prepared sets of this machine's files that are kept for later searches in the user's cache folder, beside those of object stores.

An output and the cache share the files of a set (hard links): they take no space twice, and the output stays whole when the cache is
deleted. A set is found by `SetKeys.shared`, for which all files of its source are looked at first: only who can reach them, and finds them
unchanged, gets it. What cannot be kept or taken costs time and never a search.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from autoslim.core import activity
from autoslim.core.file_lock import remove_left_lock_files
from autoslim.core.files import is_unfinished, publish_folder
from autoslim.core.user_cache import FOLDER, cache_limit
from autoslim.data.dataset import MANIFEST
from autoslim.data.prepared_folder import make_prepared_folder, prepared_folder
from autoslim.data.report import DatasetReport
from autoslim.data.scratch_folder import remove_left_folders
from autoslim.errors import AutoslimError

_FILES = "files.json"
"""In the folder of a kept set: the names of its files with their bytes. One that is being deleted, or damaged, has not all of them."""

_COPIED_BYTES = 2**30
"""Of a set that is copied where it cannot be linked, at most: to have a larger one twice costs more than to prepare it again."""

_KEPT_SECONDS = 7 * 86_400.0
"""Since its last use, after which a set that is in no output any more makes room for another."""

_LEFTOVER_SECONDS = 86_400.0
"""After which what was not finished is of a process that was killed."""

_PATIENCE_SECONDS = 300.0
"""How long another process that prepares the set may give no sign of life before this one prepares it, too: it may be stopped."""

_LOOK_SECONDS, _BEAT_SECONDS = 1.0, 5.0

_NAME_LENGTH = 64
"""Of a set that is kept here. Those of object stores have shorter names, and belong to the cache alone."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptSet:
    """The place of one set in the user's cache, which need not be there."""

    path: Path

    @classmethod
    def find(cls, key: str) -> KeptSet | None:
        """None where the user keeps none (`AUTOSLIM_CACHE_LIMIT` of 0)."""
        return cls(path=prepared_folder() / key) if cache_limit() else None

    def take(self, folder: Path, *, source: str, decoded_limit: int) -> DatasetReport | None:
        """Puts the set into the empty `folder`, with a name of the source and a limit for decoded images of its own; returns its report,
        or None where there is no whole one, and the folder is empty."""
        try:
            _link_or_copy(self.path, folder, self._files())
            report = DatasetReport.from_json((folder / MANIFEST).read_text()).replace(source=source, decoded_limit=decoded_limit)
            # Another file: that of the cache, which is linked, stays as it is.
            (folder / MANIFEST).unlink()
            (folder / MANIFEST).write_text(report.to_json(indent=2))
            # When it was used last, which may not be written to a cache of somebody else.
            with contextlib.suppress(OSError):
                os.utime(self.path)
            return report
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError, AutoslimError) as error:
            _log.warning("the prepared images in %s cannot be taken (%s): they are prepared again", self.path, error)
            if not isinstance(error, OSError):
                # All of its files are there, so that it would not be replaced.
                with contextlib.suppress(OSError):
                    _discard(self.path)
        for entry in folder.iterdir():
            entry.unlink()
        return None

    def put(self, folder: Path) -> str:
        """Keeps the set that was written to `folder`; returns what is said where it is not kept, or nothing."""
        try:
            # Not `Path.is_dir`, which raises where the folder cannot be looked at.
            if os.path.isdir(self.path):
                if self._is_whole():
                    return ""
                _discard(self.path)
            make_prepared_folder()
            files = {entry.name: entry.stat().st_size for entry in folder.iterdir() if entry.is_file()}
            with publish_folder(self.path, contested=True) as partial:
                _link_or_copy(folder, partial, files)
                for name in files:
                    _flush(partial / name)
                (partial / _FILES).write_text(json.dumps(files))
                _flush(partial / _FILES)
        except OSError as error:
            if os.path.isdir(self.path):
                # Another process was faster.
                return ""
            return (
                f"the prepared images are not kept for later searches, which prepare them again: {error}; {FOLDER} names another folder, "
                "best in the file system of the outputs"
            )
        return ""

    @contextlib.contextmanager
    def locked(self, tell: Callable[[str], None] | None) -> Iterator[None]:
        """Waits while another process prepares the set, as long as that goes on; others wait for this one in the block."""
        lock, beat = filelock.FileLock(f"{self.path}.lock"), self.path.with_name(f"{self.path.name}.beat")
        try:
            make_prepared_folder()
            _acquire(lock, beat, tell)
        except (OSError, NotImplementedError) as error:
            # The search needs no cache. What is lost is said where the set is kept.
            _log.debug("no lock in %s: %s", self.path.parent, error)
        if not lock.is_locked:
            yield
            return
        try:
            with _beating(beat):
                yield
        finally:
            with contextlib.suppress(OSError):
                beat.unlink(missing_ok=True)
            lock.release()

    def _files(self) -> dict[str, int]:
        """Raises OSError where the list is gone or damaged."""
        try:
            files = json.loads((self.path / _FILES).read_text())
            if isinstance(files, dict) and all(os.path.basename(name) == name and int(size) >= 0 for name, size in files.items()):
                return files
        except (ValueError, TypeError):
            pass
        raise OSError(errno.EIO, "it is no list of files and their bytes", str(self.path / _FILES))

    def _is_whole(self) -> bool:
        try:
            return all((self.path / name).stat().st_size == size for name, size in self._files().items())
        except OSError:
            return False


def make_room(needed: int) -> None:
    """Deletes sets that only the cache has: those that were not used for long, and of the others, oldest first, as many as the disk needs
    for one of so many bytes; and what killed processes left.

    Raises:
        OSError: for a folder that cannot be looked at.
    """
    now, folder = time.time(), prepared_folder()
    # First: sets that are linked there alone are in no output.
    remove_left_folders(folder, _LEFTOVER_SECONDS)
    for path in folder.glob("*"):
        if _is_part(path.name) and now - _last_use(path) > _LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
    sets = (path for path in folder.glob("*") if len(path.name) == _NAME_LENGTH and path.is_dir())
    for path in sorted(sets, key=_last_use):
        is_short = shutil.disk_usage(folder).free < 2 * needed
        if (is_short or now - _last_use(path) > _KEPT_SECONDS) and _is_alone(path):
            with contextlib.suppress(OSError):
                _discard(path)
    remove_left_lock_files(folder)


def _is_part(name: str) -> bool:
    """Whether it is a set that is being linked or deleted. An object store's is written as long as it takes to prepare."""
    return is_unfinished(name) and len(name.partition(".")[0]) == _NAME_LENGTH


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        # Deleted meanwhile.
        return time.time()


def _is_alone(path: Path) -> bool:
    """Whether no output has a name for the images, so that deleting them frees their space."""
    with contextlib.suppress(OSError):
        return all(entry.stat().st_nlink == 1 for entry in path.glob("*.arrow"))
    return False


def _discard(path: Path) -> None:
    """Its name goes first: nobody takes a part of it."""
    gone = path.with_name(f"{path.name}.{os.getpid()}.old")
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _link_or_copy(source: Path, destination: Path, files: dict[str, int]) -> None:
    """Files of the given sizes; copies where no link can be made, of a set that is small.

    Raises:
        OSError: for files that are gone, have another size, or are too large to copy.
    """
    for name, size in files.items():
        try:
            os.link(source / name, destination / name)
        except FileNotFoundError:
            raise
        except OSError as error:
            # Another file system, or one without links; a file of somebody else.
            total = sum(files.values())
            if total > _COPIED_BYTES or shutil.disk_usage(destination).free < 2 * total:
                raise OSError(error.errno, f"no hard link can be made, and a copy would take {total / 2**30:.1f} GiB") from error
            shutil.copyfile(source / name, destination / name)
        if (destination / name).stat().st_size != size:
            raise OSError(errno.EIO, f"it has not the {size} bytes that were written", str(source / name))


def _flush(path: Path) -> None:
    """To the disk: a power failure must not leave a set whose files are empty."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _acquire(lock: filelock.BaseFileLock, beat: Path, tell: Callable[[str], None] | None) -> None:
    """Unless its owner shows no progress for long."""
    seen, since, told = None, time.monotonic(), False
    while not lock.is_locked and time.monotonic() - since < _PATIENCE_SECONDS:
        # Who waits is not idle.
        activity.mark()
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=_LOOK_SECONDS)
            return
        if tell is not None and not told:
            tell("another search prepares the same images: waiting for them")
            told = True
        if (last := _time_of(beat)) != seen:
            seen, since = last, time.monotonic()


def _time_of(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _beating(path: Path) -> Iterator[None]:
    """Touches a file now and then, whatever the block does: to find the first image, or to write the last file, may take long. When a
    process is stopped, so is its thread."""
    ended = threading.Event()

    def beat() -> None:
        while True:
            with contextlib.suppress(OSError):
                path.touch()
            if ended.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="autoslim-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
