"""Copies of one image in two splits or with two labels, and classes of very different sizes: found while images are prepared.

Copies are equal to the byte. N images of a split.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoslim.data.table import Labels

MAX_RATIO = 100
"""Images of the largest class for one of the smallest, above which the imbalance is said."""

HASH_BYTES = 32
"""Bytes of a hash: as long as SHA-256's, so that nobody can make two images, or another one to an image, that have the same. By it images
are found that other data sets brought."""

_SHOWN = 3


def content_hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


class Contents:
    """The hashes and labels of the images of one split, in their order; 40 bytes an image."""

    def __init__(self) -> None:
        self._hashes, self._labels = bytearray(), bytearray()

    def add(self, content: bytes, label: int) -> None:
        self._hashes += content
        self._labels += label.to_bytes(8, "little")

    @property
    def hashes(self) -> NDArray[np.void]:
        """(N,), of values that can be compared for equality."""
        return np.frombuffer(bytes(self._hashes), np.dtype((np.void, HASH_BYTES)))

    @property
    def labels(self) -> Labels:
        return np.frombuffer(bytes(self._labels), "<i8").astype(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copies:
    """Rows, in each split, of images that have a copy in another split (`shared`) or with another label (`contradicting`), and of
    validation images that have one in the test split (`held_out`)."""

    shared: dict[str, NDArray[np.int64]]
    held_out: NDArray[np.int64]
    contradicting: dict[str, NDArray[np.int64]]


def find_copies(contents: Mapping[str, Contents]) -> Copies:
    """Over all splits together."""
    hashes = np.concatenate([one.hashes for one in contents.values()])
    labels = np.concatenate([one.labels for one in contents.values()])
    split = np.repeat(np.arange(len(contents)), [len(one.labels) for one in contents.values()])
    # Images with the same number have the same bytes. As texts of bytes: NumPy sorts no voids, and records of numbers slowly. It leaves out
    # zeros at their end, by which no two of the same length become equal.
    _, image = np.unique(hashes.view(f"S{HASH_BYTES}"), return_inverse=True)
    shared, contradicting = _varies(image, split), _varies(image, labels)
    ends = np.cumsum([0, *(len(one.labels) for one in contents.values())])
    parts = {name: slice(ends[place], ends[place + 1]) for place, name in enumerate(contents)}
    return Copies(
        held_out=np.flatnonzero(np.isin(image[parts["validation"]], image[parts["test"]])),
        shared={name: np.flatnonzero(shared[part]) for name, part in parts.items()},
        contradicting={name: np.flatnonzero(contradicting[part]) for name, part in parts.items()},
    )


def _varies(group: NDArray[np.int64], value: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of each entry, whether entries of its group have different values."""
    count = int(group.max(initial=-1)) + 1
    low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1, np.int64)
    np.minimum.at(low, group, value)
    np.maximum.at(high, group, value)
    varies: NDArray[np.bool_] = (low != high)[group]
    return varies


def described(copies: Copies, names: Mapping[str, list[str]], *, dropped: int) -> tuple[str, ...]:
    """What is said of them; `names` are those of the first rows of `shared` and `contradicting`, by the same keys with the split."""
    shared, odd = len(copies.shared["train"]), sum(map(len, copies.contradicting.values()))
    held_out = len(copies.held_out)
    lines = []
    if dropped:
        lines.append(f"{dropped} images are left out of train, since they have copies in another split or with another label")
    if shared:
        lines.append(
            f"{shared} training images are in the validation or test split, too ({_some(names['shared'], shared)}), which makes a model "
            "look more accurate than it is; --drop-duplicates leaves them out of train"
        )
    if held_out:
        lines.append(f"{held_out} validation images are in the test split, too ({_some(names['held_out'], held_out)})")
    if odd:
        hint = "; --drop-duplicates leaves them out of train" if len(copies.contradicting["train"]) else ""
        lines.append(f"{odd} images have a copy with another label ({_some(names['odd'], odd)}){hint}")
    return tuple(lines)


def _some(names: list[str], count: int) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if count > _SHOWN else "")


def imbalance(counts: NDArray[np.int64], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Said where the largest class of train has more than `MAX_RATIO` times the images of the smallest."""
    if len(classes) < 2 or int(counts.max()) <= MAX_RATIO * int(counts.min()):
        return ()
    most, least = int(counts.argmax()), int(counts.argmin())
    return (
        f"class {classes[most]!r} has {counts[most]} training images and class {classes[least]!r} {counts[least]}, more than "
        f"{MAX_RATIO} to 1: accuracy says little about the small classes",
    )
