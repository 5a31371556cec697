"""`fingerprint`: what tells that a spec's data or model has changed since its plan was made, without reading any of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from autoslim.config import JobSpec
from autoslim.config.dense_models import entries_of

# Entries of a folder, and of each folder in it, that are looked at. A data set of so many classes changes too rarely to look at more.
_MAX_ENTRIES = 2000
_SPLITS = ("train", "test", "validation", "val")


def fingerprint(spec: JobSpec) -> tuple[tuple[str, int, int], ...]:
    """Of every file and folder that the spec names, and of the folders of splits and classes in them: name, time of the last change, and
    size. Adding, removing or replacing a file changes it. Blocks, for milliseconds.
    """
    named = [*entries_of(spec.model), spec.data, *entries_of(spec.weights), *([] if spec.teacher is None else [spec.teacher])]
    return tuple(entry for text in named for entry in _entries(text))


def _entries(text: str) -> Iterator[tuple[str, int, int]]:
    # Resolved paths are absolute; everything else is a name.
    if not text.startswith("/"):
        return
    path = Path(text)
    yield from _of(path)
    for folder in (path, *(path / split for split in _SPLITS)):
        try:
            with os.scandir(folder) as found:
                names = [entry.path for entry, _ in zip(found, range(_MAX_ENTRIES), strict=False)]
        except OSError:
            continue
        for name in sorted(names):
            yield from _of(Path(name))


def _of(path: Path) -> Iterator[tuple[str, int, int]]:
    try:
        found = path.stat()
    except OSError:
        return
    yield str(path), found.st_mtime_ns, found.st_size
