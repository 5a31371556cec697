"""A job's files. Only what the listing has can be opened, and symbolic links are not followed.

Workers write the folder, so its content is not trusted. A path of a request is never joined to it: the path has to equal a listed name,
and each of its parts is opened beneath the one before, so that a link that appears in between leads nowhere else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import mimetypes
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from autoslim.core.files import is_unfinished

_TOP = ("front.html", "front.parquet", "report.html", "trials.parquet")
_TREES = ("models",)
_LOG = re.compile(r"attempt-([0-9]{1,6})\.log")
# A job has models/<budget>/<form>; the bounds only stop a folder that is broken or hostile.
_MAX_DEPTH = 6
_MAX_FILES = 5000
_TYPES = {
    ".safetensors": "application/octet-stream",
    ".onnx": "application/octet-stream",
    ".pt2": "application/zip",
    ".parquet": "application/vnd.apache.parquet",
    ".md": "text/markdown; charset=utf-8",
    ".py": "text/x-python; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".log": "text/plain; charset=utf-8",
}

# Hashing a model takes seconds; the key changes with the content, so that an entry is never out of date.
_MAX_DIGESTS = 4096
_digests: dict[tuple[int, int, int, int], str] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """`name` is the path beneath the job's folder, with forward slashes."""

    name: str
    bytes: int
    sha256: str
    media_type: str


def artifact_names(folder: Path) -> list[str]:
    """Sorted paths beneath the job's folder; empty where it does not exist yet."""
    top = [name for name in _TOP if _is_file(folder / name)]
    trees = [name for tree in _TREES for name in _walk(folder / tree, tree, 1)]
    return sorted([*top, *trees])[:_MAX_FILES]


def list_artifacts(folder: Path) -> list[Artifact]:
    """With sizes and digests; a file that disappears meanwhile is left out."""
    found = []
    for name in artifact_names(folder):
        try:
            descriptor = open_beneath(folder, name)
        except OSError:
            continue
        try:
            size = os.fstat(descriptor).st_size
            found.append(Artifact(name=name, bytes=size, sha256=digest(descriptor), media_type=media_type(name)))
        finally:
            os.close(descriptor)
    return found


def find_log(folder: Path, attempt: int | None, *, suffix: str = ".log") -> str | None:
    """The name of this attempt's log, of the last attempt's for None; None where there is no log."""
    numbers = [number for number in _attempts(folder / "logs") if attempt in (None, number)]
    return f"logs/attempt-{max(numbers)}{suffix}" if numbers else None


def open_beneath(folder: Path, name: str) -> int:
    """A descriptor of a regular file beneath `folder`.

    Raises:
        OSError: for anything else, symbolic links included.
    """
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        *folders, last = name.split("/")
        for part in folders:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{name} is not a regular file")
    return descriptor


def digest(descriptor: int) -> str:
    """SHA-256 of a file in hexadecimal, computed again only when the file has changed."""
    found = os.fstat(descriptor)
    key = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
    if key not in _digests:
        while len(_digests) >= _MAX_DIGESTS:
            _digests.pop(next(iter(_digests)), None)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]


def media_type(name: str) -> str:
    suffix = Path(name).suffix
    return _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[str]:
    """Skips hidden files, and folders that `autoslim.core.files` is writing or replacing."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or is_unfinished(entry.name) or not entry.name.isprintable():
            continue
        if entry.is_file(follow_symlinks=False):
            yield f"{prefix}/{entry.name}"
        elif entry.is_dir(follow_symlinks=False) and depth < _MAX_DEPTH:
            yield from _walk(folder / entry.name, f"{prefix}/{entry.name}", depth + 1)


def _attempts(folder: Path) -> Iterator[int]:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if match := _LOG.fullmatch(name):
            yield int(match[1])
