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
from pathlib import Path
from typing import Self

from autoslim.core.files import write_atomically
from autoslim.core.user_cache import cache_folder
from autoslim.data.copies import HASH_BYTES
from autoslim.data.decode import decoder_version
from autoslim.data.hashes import Hashes

MAX_IMAGES = 4_000_000
"""Remembered of a data set, at most: 128 MB in the file."""

SAVE_SECONDS = 60.0
"""What a killed preparation has to examine again at most."""

MAX_DAYS = 180
"""Since a record was written, after which it is deleted."""


class Examined:
    """The hashes of one data set's readable images, `known` ones from the file. It is entered for one preparation, which `add`s what it
    reads; the file is written at the end, and now and then before, for a preparation that is killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known = Hashes(_read(path))
        self._seen = Hashes()
        self._next_save = time.monotonic() + SAVE_SECONDS

    @classmethod
    def of(cls, source: str) -> Self:
        """`source` as in `DatasetSpec`; under another path, or with another decoder, nothing is known of it."""
        place = os.path.abspath(source) if os.path.exists(source) else source
        name = hashlib.blake2b(f"{place}\n{decoder_version()}".encode(), digest_size=16).hexdigest()
        return cls(cache_folder() / "examined" / name)

    def add(self, content: bytes) -> None:
        """An image that decoded without an error."""
        self._seen.add(content)
        if time.monotonic() >= self._next_save:
            self._save(whole=False)
            self._next_save = time.monotonic() + SAVE_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # After a whole preparation images that are gone are forgotten. After one that ended early those that it did not come to are kept:
        # when the data set is mended, only what is new is decoded.
        self._save(whole=kind is None)

    def _save(self, *, whole: bool) -> None:
        hashes = self._seen.tobytes()
        if not whole:
            hashes = Hashes(hashes + self.known.tobytes()).tobytes()
        if hashes == self.known.tobytes() or len(hashes) > MAX_IMAGES * HASH_BYTES:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, hashes)
            _remove_old(self._path.parent)
        except OSError as error:
            # A home that cannot be written costs the next preparation its time, not this one its result.
            logging.getLogger(__name__).warning(
                "%s cannot be written (%s): all images are decoded again next time", self._path, error
            )


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError:
        # Nothing is remembered yet; a file that cannot be read is no different.
        return b""
    return data[: len(data) // HASH_BYTES * HASH_BYTES]


def _remove_old(folder: Path) -> None:
    """Records of data sets that were not prepared for long, such as those of deleted output folders."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > MAX_DAYS * 86_400:
                path.unlink()
