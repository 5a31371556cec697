"""`BatchShare`: the images of every batch that one of several processes prepares, augmented as in the whole batch.

B images of the whole batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np

from autoslim.data.table import Indices


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShare:
    """The share of process `rank` of `ranks`, which count from 0."""

    rank: int
    ranks: int

    @property
    def least_batch(self) -> int:
        """Images of the smallest batch of which every process gets some."""
        return 2 * self.ranks - 1

    def rows(self, batch: int) -> Indices:
        """The rows of a batch of `batch` images, in rising order.

        Rows i and B-1-i have the same process, and the reversed share is the share of the reversed batch: mixup, which mixes these two,
        needs no other process.
        """
        half = (batch + 1) // 2
        front = np.arange(half * self.rank // self.ranks, half * (self.rank + 1) // self.ranks)
        # The middle row of an odd batch is its own partner, and stands once.
        return np.union1d(front, batch - 1 - front)

    def rows_by_rank(self, batch: int) -> list[Indices]:
        """`rows` of every process."""
        return [dataclasses.replace(self, rank=rank).rows(batch) for rank in range(self.ranks)]

    def draws(self, generator: np.random.Generator, batch: int) -> np.random.Generator:
        """A generator whose numbers for this share's images are those that `generator` draws for them in the whole batch."""
        return cast(np.random.Generator, _ShareDraws(generator, batch, self.rows(batch)))


class _ShareDraws:
    """The functions of NumPy's generator with which batches are augmented: one number an image."""

    def __init__(self, generator: np.random.Generator, batch: int, rows: Indices) -> None:
        self._generator, self._batch, self._rows = generator, batch, rows

    def random(self, size: int) -> Any:
        return self._take(size, self._generator.random(self._batch))

    def uniform(self, low: float, high: float, size: int) -> Any:
        return self._take(size, self._generator.uniform(low, high, self._batch))

    def integers(self, low: int, high: int, *, size: int, endpoint: bool) -> Any:
        return self._take(size, self._generator.integers(low, high, size=self._batch, endpoint=endpoint))

    def _take(self, size: int, drawn_B: Any) -> Any:
        assert size == len(self._rows), "a draw that is not one number an image"
        return drawn_B[self._rows]
