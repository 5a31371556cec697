"""By what a prepared data set is found again: hashes of how it is prepared, and of its source's files."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from autoslim.core.job import DatasetSpec
from autoslim.data.decode import decoder_version
from autoslim.data.file_stamps import FileStamp

LAYOUT = 2
"""Version of a prepared set: one of another version is not read. 2: images are turned by their EXIF orientation."""

_FILES_AT_ONCE = 1024
"""Of the source, whose names, sizes and times are hashed: a folder has millions of images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetKeys:
    """`own` names the set in its search's output. `shared` names it among the sets of all searches of a user, of whatever working folder
    and decoder, and however the source's path is given; it follows autoslim's version, and each change of a file, also one that keeps its
    size and time. `newest` is when the last of the files was changed (ns), and `size` their bytes; both are 0 where there are no files."""

    own: str
    shared: str
    newest: int
    size: int

    @classmethod
    def of(cls, spec: DatasetSpec, files: Iterable[FileStamp], seed: int) -> SetKeys:
        # How much is decoded beforehand is no part of the set, nor is how the path of its source is given.
        what = spec.replace(source="", decoded_limit=None).to_dict()
        places = [_absolute(spec.source), _absolute(spec.token_labels or "")]
        versions = [metadata.version("autoslim"), decoder_version()]
        own, shared = _ListHash(LAYOUT, spec.to_dict(), seed), _ListHash(LAYOUT, what, seed, places, versions)
        rest, newest, size = iter(files), 0, 0
        while some := list(itertools.islice(rest, _FILES_AT_ONCE)):
            # Those of sets that earlier versions prepared.
            own.add([(path, length, written) for path, length, written, _ in some])
            shared.add([(os.path.abspath(path), *stamp) for path, *stamp in some])
            newest = max(newest, *(changed for *_, changed in some))
            size += sum(max(0, length) for _, length, _, _ in some)
        return cls(own=own.hexdigest()[:16], shared=shared.hexdigest(), newest=newest, size=size)


def key_of(spec: DatasetSpec, content: list[tuple[str, str]], seed: int) -> str:
    """The name of the set of an object store; `content` are URIs, and the digests of what is there."""
    found = _ListHash(LAYOUT, spec.to_dict(), seed)
    found.add(content)
    return found.hexdigest()[:16]


class _ListHash:
    """The hash of one JSON list, [*head, items], of which the items are never in memory together."""

    def __init__(self, *head: Any) -> None:
        self._hash, self._comma = hashlib.sha256(json.dumps(head, sort_keys=True)[:-1].encode() + b", ["), ""

    def add(self, items: list[Any]) -> None:
        self._hash.update((self._comma + json.dumps(items)[1:-1]).encode())
        self._comma = ", "

    def hexdigest(self) -> str:
        whole = self._hash.copy()
        whole.update(b"]]")
        return whole.hexdigest()


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path else ""
