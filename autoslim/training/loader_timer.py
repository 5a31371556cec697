"""`LoaderTimer`: how long training waits for its batches."""

from __future__ import annotations

import time
from collections.abc import Iterator

from torch import Tensor


class LoaderTimer:
    """Measures how long the training waits for its loader."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self.seconds += time.monotonic() - began
            if batch is None:
                return
            yield batch
