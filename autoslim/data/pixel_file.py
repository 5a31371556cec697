"""Decoded images of one size in a file: N images (H, W, 3), then their N keys, then N checks, and nothing else.

A key is the hash of the encoded image (`copies.content_hash`). A check is a hash of the pixels together with the key: where it fits, these
are the pixels of that image, whatever happened to the file. N follows from the file's size.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from autoslim.core.positioned_io import read_at
from autoslim.data.copies import HASH_BYTES
from autoslim.data.table import Indices

Keys = NDArray[np.uint8]
"""Hashes of encoded images (N, HASH_BYTES)."""

CHECK_BYTES = 16
"""Damage stays unseen with a probability of 2^-128."""


def keys_of(data: bytes) -> Keys:
    return np.frombuffer(data, np.uint8).reshape(-1, HASH_BYTES)


def check_of(pixels: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(pixels, key=key, digest_size=CHECK_BYTES).digest()


def pixel_bytes(size: tuple[int, int]) -> int:
    """Of one image."""
    return size[0] * size[1] * 3


def bytes_in_file(size: tuple[int, int]) -> int:
    """Of one image with its key and its check."""
    return pixel_bytes(size) + HASH_BYTES + CHECK_BYTES


class PixelWriter:
    """Writes such a file, whose images need not be known before; 48 bytes of memory an image."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._keys, self._checks = file, bytearray(), bytearray()

    def add(self, key: bytes, pixels: bytes, check: bytes) -> None:
        self._file.write(pixels)
        self._keys += key
        self._checks += check

    def finish(self) -> None:
        self._file.write(self._keys)
        self._file.write(self._checks)


def write_pixels(path: Path, keys: Keys, images: Iterable[tuple[bytes, bytes]]) -> None:
    """`images` are pixels and checks, as many as there are keys."""
    with path.open("wb") as file:
        writer = PixelWriter(file)
        for key, (pixels, check) in zip(keys, images, strict=True):
            writer.add(key.tobytes(), pixels, check)
        writer.finish()


class PixelFile:
    """The images, read from the file as they are asked for.

    It is not mapped: what a process has read of a map counts as its memory, in the end the whole set. The system's cache of files holds
    the images once for all processes of a node.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        """Raises OSError for a file that cannot be read, or is not of this form."""
        self._path, self._size = path, size
        with path.open("rb") as file:
            self._count = _count(file, size)
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)

    def images(self, indices: Indices) -> NDArray[np.uint8]:
        """A new array (N, H, W, 3). May be called by several threads.

        Raises:
            IndexError: for an image that the file does not have.
            OSError: for a file that cannot be read.
        """
        images = np.empty((len(indices), *self._size, 3), np.uint8)
        if not len(indices):
            return images
        if not 0 <= indices.min() <= indices.max() < self._count:
            raise IndexError(f"{self._path} has {self._count} images, and not all of {indices.min()} to {indices.max()}")
        # Images that follow each other, as in an evaluation, are one read.
        starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
        for start, stop in zip(starts.tolist(), [*starts.tolist()[1:], len(indices)], strict=True):
            self._read(images[start:stop].reshape(-1).data, int(indices[start]) * pixel_bytes(self._size))
        return images

    def _read(self, into: memoryview, offset: int) -> None:
        if read_at(self._file, into, offset) < len(into):
            raise OSError(f"{self._path} became shorter while it was used")


class CheckedFile:
    """The same file, read image by image, each with its check."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        """Raises OSError for a file that cannot be read, or is not of this form."""
        self.path, self._width = path, pixel_bytes(size)
        self._file = path.open("rb")
        try:
            self._count = _count(self._file, size)
            self._file.seek(self._count * self._width)
            rest = self._file.read()
            if len(rest) != self._count * (HASH_BYTES + CHECK_BYTES):
                raise OSError(f"{path} became shorter while it was read")
            self.keys = keys_of(rest[: HASH_BYTES * self._count])
            self._checks = rest[HASH_BYTES * self._count :]
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def checked(self, row: int) -> tuple[bytes, bytes] | None:
        """Pixels and check of an image; None where they do not fit, or cannot be read. May be called by several threads."""
        try:
            pixels = os.pread(self._file.fileno(), self._width, row * self._width)
        except OSError:
            # As good as damaged: the image is decoded again.
            return None
        check = self._checks[CHECK_BYTES * row : CHECK_BYTES * (row + 1)]
        return (pixels, check) if check_of(pixels, self.keys[row].tobytes()) == check else None

    def rows_of(self, keys: Keys) -> Indices:
        """The rows of images (N,), -1 for those that are not here."""
        if not len(keys) or not self._count:
            return np.full(len(keys), -1)
        # By the first eight bytes; among images that have the same ones, which never happens, one at most is found.
        own, wanted = (np.ascontiguousarray(some[:, :8]).view("<u8")[:, 0] for some in (self.keys, keys))
        order = np.argsort(own, kind="stable")
        rows = order[np.minimum(np.searchsorted(own[order], wanted), self._count - 1)]
        return np.where((self.keys[rows] == keys).all(axis=1), rows, -1)


def _count(file: IO[bytes], size: tuple[int, int]) -> int:
    total = os.fstat(file.fileno()).st_size
    count, rest = divmod(total, bytes_in_file(size))
    if rest:
        raise OSError(f"{file.name} has {total} bytes, which is no number of images of {size[0]}x{size[1]} pixels")
    return count
