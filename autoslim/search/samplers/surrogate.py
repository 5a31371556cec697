"""The surrogate model: the accuracy of a recipe at the end of its trial, learnt from all trials of a search.

It learns across methods, budgets and lengths of trials in two stages:

1. A ridge regression over FLOPs and epochs takes the trend that all recipes share: more FLOPs and more epochs give more accuracy.
2. A forest of extremely randomised trees (Geurts et al., 2006) learns the residuals. A trial that was stopped after one epoch thus says
   whether its recipe is better or worse than others at one epoch, and not that it is a bad recipe.

Each tree is fitted to its own bootstrap sample of the trials; the spread of their predictions is the uncertainty, as in SMAC (Hutter et
al., 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from autoslim.search.samplers.features import Vector

Array = NDArray[np.float64]

N_TREES = 48
"""Each proposal asks half of them (`ForestSampler`): 24 samples of an expectation."""
_RIDGE_PENALTY = 1e-3
"""By number of trials. The trend's columns are nearly collinear; without a penalty their weights are huge and cancel."""


class Surrogate:
    """A fitted model. It is a function of its arguments."""

    def __init__(
        self, vectors: Sequence[Vector], epoch_fractions: Sequence[float], accuracies: Sequence[float], *, seed: int
    ) -> None:
        """`epoch_fractions` say how much of a trial's epochs each trial was trained for: 0 straight after pruning, 1 at the end."""
        x, y = np.vstack(vectors), np.array(accuracies)
        # Stage 1: the trend. The mean is taken out first, so that the penalty does not pull predictions towards 0.
        trend = _trend(x[:, 0], np.array(epoch_fractions))
        penalty = _RIDGE_PENALTY * len(y) * np.eye(trend.shape[1])
        self._mean = float(y.mean())
        self._weights = np.linalg.solve(trend.T @ trend + penalty, trend.T @ (y - self._mean))
        # Stage 2: the residuals. Seeds of a job may exceed the 32 bits that scikit-learn takes.
        self._trees = ExtraTreesRegressor(
            N_TREES, max_features=0.5, min_samples_leaf=2, bootstrap=True, random_state=seed % 2**32, n_jobs=1
        )
        self._trees.fit(np.column_stack([x, epoch_fractions]), y - self._mean - trend @ self._weights)

    def predict(self, vectors: Sequence[Vector]) -> Array:
        """(trees, recipes): the accuracy that each tree predicts for each recipe at the end of its trial."""
        x = np.vstack(vectors)
        ends = np.ones(len(x))
        expected = self._mean + _trend(x[:, 0], ends) @ self._weights
        # scikit-learn's own `predict` gives the mean only; the trees are asked one by one, and they read 32-bit floats.
        numbers = np.column_stack([x, ends]).astype(np.float32)
        return np.stack([expected + tree.tree_.predict(numbers)[:, 0] for tree in self._trees.estimators_])


def _trend(flops: Array, epoch_fractions: Array) -> Array:
    """(trials, 6). The roots and the square give both trends diminishing returns."""
    return np.column_stack([flops, flops**2, np.sqrt(flops), epoch_fractions, np.sqrt(epoch_fractions), flops * epoch_fractions])
