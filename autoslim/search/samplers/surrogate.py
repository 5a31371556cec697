"""The surrogate model: the accuracy of a recipe at the end of its trial, learnt from all trials of a search.

It learns across methods, budgets and lengths of trials in two stages:

1. A ridge regression over FLOPs and epochs takes the trend that all recipes share: more FLOPs and more epochs give more accuracy.
2. A forest of extremely randomised trees (Geurts et al., 2006) learns the residuals. A trial that was stopped after one epoch thus says
   whether its recipe is better or worse than others at one epoch, and not that it is a bad recipe.

Each tree is fitted to its own bootstrap sample of the trials; the spread of their predictions is the uncertainty, as in SMAC (Hutter et
al., 2011).

Trials of other models may come before: a surrogate of those is the *prior*, and both stages learn what it gets wrong, as in the stacked
residuals of Vizier (Golovin et al., 2017). Its level is that of another model; the mean of this search's trials replaces it. Its slope is
a column of the trend, and what it says about single recipes is corrected by the forest. Its share falls with every trial of this search.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoslim.search.samplers.features import Vector

Array = NDArray[np.float64]

N_TREES = 48
"""Each proposal asks half of them (`ForestSampler`): 24 samples of an expectation."""
_RIDGE_PENALTY = 1e-3
"""By number of trials. The trend's columns are nearly collinear; without a penalty their weights are huge and cancel."""
_PRIOR_PENALTY = 0.1
"""Of the columns that a prior knows: FLOPs, and its own slope. It does not grow with the number of trials, unlike `_RIDGE_PENALTY`: a few
trials hardly bend the prior's trend, and many do."""
_PRIOR_WORTH = 0.1
"""What a trial of another model counts beside one of this model. As many own trials as the prior is worth halve its share of a prediction.
At a full share it ranks recipes worse than none from a dozen own trials on, where it has few trials (`benchmarks/prior_quality.py`)."""


class Surrogate:
    """A fitted model. It is a function of its arguments."""

    def __init__(
        self,
        vectors: Sequence[Vector],
        epoch_fractions: Sequence[float],
        accuracies: Sequence[float],
        *,
        seed: int,
        prior: Surrogate | None = None,
    ) -> None:
        """`epoch_fractions` say how much of a trial's epochs each trial was trained for: 0 straight after pruning, 1 at the end.

        `prior` is fitted to vectors of the same length.
        """
        # Takes seconds to import, and of the processes of a search only the driver fits a surrogate.
        from sklearn.ensemble import ExtraTreesRegressor

        x, y = np.vstack(vectors), np.array(accuracies)
        self._prior, self._count, self._share = prior, len(y), 0.0
        # Stage 1: the trend. The mean is taken out first, so that the penalty does not pull predictions towards 0.
        trend = _trend(x[:, 0], np.array(epoch_fractions))
        penalties = np.full(trend.shape[1], _RIDGE_PENALTY * len(y))
        self._center = np.zeros(trend.shape[1])
        if prior is not None:
            worth = _PRIOR_WORTH * prior._count
            self._share = worth / (worth + len(y))
            expected = self._share * prior.predict(vectors).mean(0)
            y = y - expected
            # The slope of what is expected is 1 and a correction, which the penalty pulls to 0.
            trend = np.column_stack([trend, expected])
            penalties = np.array([*[_PRIOR_PENALTY] * _N_FLOPS, *penalties[_N_FLOPS:], _PRIOR_PENALTY])
            # The larger penalties would also pull at the mean.
            self._center = trend.mean(0)
            trend = trend - self._center
        penalty = penalties * np.eye(len(penalties))
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
        trend = _trend(x[:, 0], ends)
        before = np.zeros(1)
        if self._prior is not None:
            # Its trees disagree about what it is unsure of, which is explored first.
            before = self._share * self._prior.predict(vectors)
            trend = np.column_stack([trend, before.mean(0)])
        expected = self._mean + (trend - self._center) @ self._weights
        # scikit-learn's own `predict` gives the mean only; the trees are asked one by one, and they read 32-bit floats.
        numbers = np.column_stack([x, ends]).astype(np.float32)
        return np.asarray(before + np.stack([expected + tree.tree_.predict(numbers)[:, 0] for tree in self._trees.estimators_]))


_N_FLOPS = 3
"""The first columns of the trend, which are those of the FLOPs alone."""


def _trend(flops: Array, epoch_fractions: Array) -> Array:
    """(trials, 6). The roots and the square give both trends diminishing returns."""
    return np.column_stack([flops, flops**2, np.sqrt(flops), epoch_fractions, np.sqrt(epoch_fractions), flops * epoch_fractions])
