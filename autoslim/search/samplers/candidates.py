"""Where a learner finds its candidates: draws from the whole space, and draws near the recipes that did best.

Draws from the whole space serve for a while, so that they are solved onto a budget only once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from autoslim.core.result import TrialResult
from autoslim.search.samplers.mutation import Mutation, values_of
from autoslim.search.samplers.optuna_study import measured
from autoslim.search.space.space import Space, Suggest, Uniform

POOL = 96
"""Draws from the whole space, for so many proposals that follow one another:"""
SERVES = 48
NEARBY = 8
_PARENTS = 6


def pool_draws(seed: int, target: str, number: int) -> list[Suggest]:
    """The same for all proposals that one pool serves."""
    return [Uniform(f"{seed}:pool:{target}:{number // SERVES}:{place}") for place in range(POOL)]


def near_draws(
    seed: int, number: int, history: Sequence[TrialResult], space: Space, fits: Callable[[TrialResult], bool]
) -> list[Suggest]:
    """Around the trials that lead; `fits` says which may be moved."""
    best = leaders([result for result in history if _usable(result)], fits)
    if not best:
        return []
    chance = random.Random(f"{seed}:{number}:parents")  # noqa: S311 - nothing secret
    return [Mutation(values_of(chance.choice(best).recipe, space), f"{seed}:{number}:near:{place}") for place in range(NEARBY)]


def leaders(results: Sequence[TrialResult], fits: Callable[[TrialResult], bool]) -> list[TrialResult]:
    """Those that are the furthest ahead of the best of the others that cost no more, the furthest first."""
    leads, ahead = [], 0.0
    for result in sorted(results, key=lambda result: (result.flops or 0, result.number)):
        accuracy = result.accuracy or 0.0
        if fits(result):
            leads.append((ahead - accuracy, result.number, result))
        ahead = max(ahead, accuracy)
    return [result for _, _, result in sorted(leads)[:_PARENTS]]


def _usable(result: TrialResult) -> bool:
    return measured(result) is not None and result.duplicate_of is None and len(result.recipe.steps) == 1
