"""Images that decoded without an error before, by the hashes of their bytes: they are not decoded again only to see whether they can be.

One file a data set in the user's cache folder. A second search on the same images, or one after a shard was exchanged, decodes what is new
alone before it starts. It saves time and nothing else: without the file everything is decoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Set
from pathlib import Path
from typing import Self

from autoslim.core.files import write_atomically
from autoslim.data.copies import HASH_BYTES
from autoslim.data.decode import decoder_version
from autoslim.data.user_cache import cache_folder

MAX_IMAGES = 4_000_000
"""Remembered of a data set, at most: 128 MB in the file."""

MAX_DAYS = 180
"""Since a record was written, after which it is deleted."""


class Examined:
    """The hashes of one data set's readable images, `known` ones from the file. It is entered for one preparation, which `add`s what it
    reads; the file is written at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known = _read(path)
        self._seen: set[bytes] = set()

    @classmethod
    def of(cls, source: str) -> Self:
        """`source` as in `DatasetSpec`; under another path, or with another decoder, nothing is known of it."""
        place = os.path.abspath(source) if os.path.exists(source) else source
        name = hashlib.blake2b(f"{place}\n{decoder_version()}".encode(), digest_size=16).hexdigest()
        return cls(cache_folder() / "examined" / name)

    def add(self, content: bytes) -> None:
        """An image that decoded without an error."""
        self._seen.add(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # After a whole preparation images that are gone are forgotten. After one that ended early those that it did not come to are kept:
        # when the data set is mended, only what is new is decoded.
        self._save(self._seen if kind is None else self._seen | self.known)

    def _save(self, hashes: Set[bytes]) -> None:
        if hashes == self.known or len(hashes) > MAX_IMAGES:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, b"".join(sorted(hashes)))
            _remove_old(self._path.parent)
        except OSError as error:
            # A home that cannot be written costs the next preparation its time, not this one its result.
            logging.getLogger(__name__).warning(
                "%s cannot be written (%s): all images are decoded again next time", self._path, error
            )


def _read(path: Path) -> frozenset[bytes]:
    try:
        data = path.read_bytes()
    except OSError:
        # Nothing is remembered yet; a file that cannot be read is no different.
        return frozenset()
    return frozenset(data[place : place + HASH_BYTES] for place in range(0, len(data), HASH_BYTES))


def _remove_old(folder: Path) -> None:
    """Records of data sets that were not prepared for long, such as those of deleted output folders."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > MAX_DAYS * 86_400:
                path.unlink()
