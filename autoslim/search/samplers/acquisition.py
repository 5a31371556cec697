"""Acquisition functions: what one more trial can be expected to improve.

`predictions` (trees, recipes) hold the accuracy that each tree of a forest predicts for each recipe. The trees are samples of what is
believed about a recipe, so the mean of an improvement over them is its expectation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def expected_improvement(predictions: Array, best: float) -> Array:
    """Expected improvement (Jones et al., 1998) over `best`, the best accuracy within the budget; one number a recipe."""
    return np.asarray(np.maximum(predictions - best, 0.0).mean(0))


def expected_hypervolume_improvement(
    predictions: Array, flops: Array, front: Sequence[tuple[float, float]], *, floor: float
) -> Array:
    """Expected growth of the area under the Pareto front (Emmerich et al., 2006); one number a recipe.

    `flops` (recipes,) and `front` ((flops, accuracy), cheapest first) have FLOPs as shares of the dense model's. The area ends at the dense
    model's FLOPs and begins at the accuracy `floor`.
    """
    # The front is a staircase: step i spans the FLOPs from starts[i] to ends[i] at the accuracy levels[i].
    starts = np.array([0.0, *(at for at, _ in front)])
    levels = np.maximum(np.array([floor, *(accuracy for _, accuracy in front)]), floor)
    ends = np.append(starts[1:], 1.0)
    # (recipes, steps): a recipe raises only the part of a step that is at its own FLOPs or above.
    widths = np.clip(ends[None] - np.maximum(starts[None], flops[:, None]), 0.0, None)
    # (trees, recipes, steps): by how much it raises that part.
    heights = np.maximum(predictions[:, :, None] - levels[None, None], 0.0)
    return np.asarray((heights * widths[None]).sum(2).mean(0))
