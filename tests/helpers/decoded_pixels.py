"""Whether a prepared data set has the pixels of its images."""

from __future__ import annotations

import numpy as np

from autoslim.data import PreparedDataset, dataset
from autoslim.data.decode import decode_rgb, fit


def are_right(prepared: PreparedDataset, size: tuple[int, int]) -> bool:
    """Of all splits at `size` (H, W), which are taken from the user's cache where they are there."""
    splits = prepared.splits(size)
    for split in dataset.SPLITS:
        stored, file = getattr(splits, split), prepared._encoded(split)
        fresh = np.stack([fit(decode_rgb(file.bytes_of(row)), size) for row in range(len(stored))])
        if not np.array_equal(stored.images(np.arange(len(stored))), fresh):
            return False
    return True
