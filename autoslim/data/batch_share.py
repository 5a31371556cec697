"""`BatchShare`: the images of every batch that one of several processes prepares, augmented as in the whole batch.

B images of the whole batch.
"""

from __future__ import annotations

import dataclasses

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
