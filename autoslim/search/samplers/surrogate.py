"""What recipes come to at the end of a trial, learnt from all trials of a job so far, whatever their method, budget and length.

A ridge over FLOPs and epochs takes what all recipes have in common: the dearer and the longer trained, the better. A forest of random
trees learns what is left, so that a trial that was stopped after an epoch still tells whether its recipe is better or worse than others.
Each tree has seen a sample of the trials of its own; what they disagree in is how little is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from autoslim.search.samplers.features import Vector

Array = NDArray[np.float64]

TREES = 48
_RIDGE = 1e-3


class Forest:
    """`shares` are how much of its epochs each trial has had, 0 straight after the cut and 1 at the end."""

    def __init__(self, vectors: Sequence[Vector], shares: Sequence[float], accuracies: Sequence[float], *, seed: int) -> None:
        x, y = np.vstack(vectors), np.array(accuracies)
        trend = _trend(x[:, 0], np.array(shares))
        penalty = _RIDGE * len(y) * np.eye(trend.shape[1])
        self._mean = float(y.mean())
        self._weights = np.linalg.solve(trend.T @ trend + penalty, trend.T @ (y - self._mean))
        # A job's seed may be larger than what scikit-learn takes.
        self._trees = ExtraTreesRegressor(
            TREES, max_features=0.5, min_samples_leaf=2, bootstrap=True, random_state=seed % 2**32, n_jobs=1
        )
        self._trees.fit(np.column_stack([x, shares]), y - self._mean - trend @ self._weights)

    def finals(self, vectors: Sequence[Vector]) -> Array:
        """(trees, recipes): the accuracy that each tree expects of each recipe at the end of its trial."""
        x = np.vstack(vectors)
        ends = np.ones(len(x))
        expected = self._mean + _trend(x[:, 0], ends) @ self._weights
        numbers = np.column_stack([x, ends]).astype(np.float32)
        return np.stack([expected + tree.tree_.predict(numbers)[:, 0] for tree in self._trees.estimators_])


def _trend(flops: Array, shares: Array) -> Array:
    """Falling returns in both."""
    return np.column_stack([flops, flops**2, np.sqrt(flops), shares, np.sqrt(shares), flops * shares])
