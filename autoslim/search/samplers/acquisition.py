"""What a further trial can be expected to gain: accuracy at a budget, or area under the front of accuracy against FLOPs.

`finals` (trees, recipes) are accuracies as each tree of a forest expects them: the mean of the trees' gains is the expected gain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def at_budget(finals: Array, best: float) -> Array:
    """Expected improvement over the best accuracy within the budget so far."""
    return np.asarray(np.maximum(finals - best, 0.0).mean(0))


def of_front(finals: Array, flops: Array, front: Sequence[tuple[float, float]], *, floor: float) -> Array:
    """Expected growth of the area under `front` ((flops, accuracy), cheapest first, FLOPs as shares of the dense model's).

    Below `floor` an accuracy is worth nothing.
    """
    starts = np.array([0.0, *(at for at, _ in front)])
    levels = np.maximum(np.array([floor, *(accuracy for _, accuracy in front)]), floor)
    ends = np.append(starts[1:], 1.0)
    # (recipes, steps): how much of each step of the front lies right of the recipe.
    widths = np.clip(ends[None] - np.maximum(starts[None], flops[:, None]), 0.0, None)
    heights = np.maximum(finals[:, :, None] - levels[None, None], 0.0)
    return np.asarray((heights * widths[None]).sum(2).mean(0))
