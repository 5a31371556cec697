"""`ForestSampler`: ranks recipes that are not trained yet by what a trial of them can be expected to gain.

It learns from complete and stopped trials alike, across methods and budgets (`forest`). A diverged one counts as bad as the worst.
A forest is grown anew when the results have grown by a twentieth: until then it serves for many proposals, each of which asks another
half of its trees, so that trials that are proposed at the same time differ.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from autoslim.core.recipe import Recipe
from autoslim.core.result import ErrorClass, ParetoFront, TrialResult, TrialState
from autoslim.search.samplers import acquisition
from autoslim.search.samplers.features import Encoder, Vector
from autoslim.search.samplers.optuna_study import measured
from autoslim.search.samplers.surrogate import TREES, Forest

LEAST = 6
"""Results without which nothing is learnt."""


class ForestSampler:
    """`epochs` are a whole trial's. Apart from its memory of what it has worked out, it is a pure function of what it is given."""

    def __init__(self, encoder: Encoder, budgets: Mapping[str, int], *, dense_flops: int, epochs: float, seed: int) -> None:
        self.encoder, self.budgets, self.dense_flops, self.epochs, self.seed = encoder, budgets, dense_flops, epochs, seed
        self._vectors: dict[int, tuple[Recipe, Vector]] = {}
        self._grown: tuple[int, Forest] | None = None

    def knows(self, history: Sequence[TrialResult]) -> bool:
        """Whether there is enough to learn from."""
        return sum(self._teaches(result) for result in history) >= LEAST

    def best(self, number: int, target: str, vectors: Sequence[Vector], history: Sequence[TrialResult]) -> int | None:
        """The place of the recipe that promises the most as trial `number` for `target`; None where there is none to choose."""
        if not vectors:
            return None
        finals = self._forest(history).finals(vectors)
        trees = random.Random(f"{self.seed}:{number}:trees").sample(range(TREES), TREES // 2)  # noqa: S311 - nothing secret
        gains = self._gains(finals[trees], target, vectors, history)
        if gains.max() <= 0:
            gains = finals[trees].mean(0) if target in self.budgets else finals[trees].std(0)
        return int(gains.argmax())

    def _gains(
        self, finals: acquisition.Array, target: str, vectors: Sequence[Vector], history: Sequence[TrialResult]
    ) -> acquisition.Array:
        front = ParetoFront.of(history).results
        if target in self.budgets:
            within = [result.accuracy or 0.0 for result in front if (result.flops or 0) <= self.budgets[target]]
            return acquisition.at_budget(finals, max(within, default=0.0))
        steps = [((result.flops or 0) / self.dense_flops, result.accuracy or 0.0) for result in front]
        return acquisition.of_front(
            finals, np.array([vector[0] for vector in vectors]), steps, floor=1 / self.encoder.shape.classes
        )

    def _forest(self, history: Sequence[TrialResult]) -> Forest:
        ended = [result for result in history if self._teaches(result)]
        count = grid(len(ended))
        if self._grown is None or self._grown[0] != count:
            self._grown = count, self._grow(ended[:count])
        return self._grown[1]

    def _teaches(self, result: TrialResult) -> bool:
        if result.duplicate_of is not None or len(result.recipe.steps) != 1:
            return False
        if result.error_class == ErrorClass.DIVERGED:
            return True
        stopped = result.state is TrialState.STOPPED and result.accuracy is not None and result.epochs is not None
        return stopped or measured(result) is not None

    def _grow(self, ended: Sequence[TrialResult]) -> Forest:
        worst = min((result.accuracy for result in ended if result.accuracy is not None), default=0.0)
        vectors, shares, accuracies = [], [], []
        for result in ended:
            vectors.append(self._vector(result))
            stopped = result.state is TrialState.STOPPED
            shares.append((result.epochs or 0.0) / self.epochs if stopped else 1.0)
            accuracies.append(worst if result.accuracy is None else result.accuracy)
        return Forest(vectors, shares, accuracies, seed=self.seed)

    def _vector(self, result: TrialResult) -> Vector:
        known = self._vectors.get(result.number)
        if known is None or known[0] != result.recipe:
            known = result.recipe, self.encoder.encode(result.recipe, self.encoder.plan_of(result.recipe))
            self._vectors[result.number] = known
        return known[1]


def grid(count: int) -> int:
    """The next lower number of results at which a forest is grown: every one up to twenty, then in steps of a twentieth."""
    at = min(count, 20)
    while (step := max(1, at // 20)) + at <= count:
        at += step
    return at
