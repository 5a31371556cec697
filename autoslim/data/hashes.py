"""`Hashes`: a set of content hashes in a sorted array, 32 bytes each; a set of Python's takes three times as much."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoslim.data.copies import HASH_BYTES

_KEY = np.dtype((np.bytes_, HASH_BYTES))
"""NumPy sorts these by their bytes. It leaves out zeros at their end, by which no two of the same length become equal."""

_RECENT = 1 << 16
"""Hashes that are added before they are sorted in: few enough to take little memory, and many enough that sorting in takes little time."""


class Hashes:
    """`data` are hashes one behind the other, in any order. Other threads may ask while one adds."""

    def __init__(self, data: bytes = b"") -> None:
        self._sorted: NDArray[np.bytes_] = np.unique(np.frombuffer(data, _KEY))
        self._recent: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, content: bytes) -> bool:
        # In this order: what is recent moves to the array, never back.
        return content in self._recent or self._is_sorted_in(content)

    def add(self, content: bytes) -> None:
        if self._is_sorted_in(content):
            return
        self._recent.add(content)
        if len(self._recent) >= _RECENT:
            self._sort_in()

    def tobytes(self) -> bytes:
        """In rising order."""
        self._sort_in()
        return self._sorted.tobytes()

    def _is_sorted_in(self, content: bytes) -> bool:
        key, known = np.frombuffer(content, _KEY), self._sorted
        place = int(known.searchsorted(key)[0])
        return place < len(known) and bool(known[place] == key[0])

    def _sort_in(self) -> None:
        new = np.sort(np.frombuffer(b"".join(self._recent), _KEY))
        self._sorted = np.insert(self._sorted, self._sorted.searchsorted(new), new)
        self._recent = set()
