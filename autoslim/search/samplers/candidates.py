"""Where the forest's candidates come from: draws from the whole space, and mutations of the best recipes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from autoslim.core.result import TrialResult
from autoslim.search.recipe_builder import RecipeBuilder
from autoslim.search.samplers.mutation import Mutation, values_of
from autoslim.search.samplers.optuna_study import accuracy_at_end
from autoslim.search.space.space import Suggest, Uniform

POOL_SIZE = 96
"""Draws from the whole space in a pool."""
POOL_LIFETIME = 48
"""Trials in a row that share a pool: to solve its draws onto a budget takes far longer than to rank them, and is done once."""
N_MUTATIONS = 8
"""Mutations are new for each trial, so they are few."""
N_PARENTS = 6
"""Recipes that mutations start from. Several, so that one lucky result does not hold the search in its neighbourhood."""


def pool_draws(seed: int, target: str, number: int) -> list[Suggest]:
    """Uniform draws, the same for all trials that share a pool."""
    return [Uniform(f"{seed}:pool:{target}:{number // POOL_LIFETIME}:{place}") for place in range(POOL_SIZE)]


def mutation_draws(
    builder: RecipeBuilder, number: int, history: Sequence[TrialResult], is_candidate: Callable[[TrialResult], bool]
) -> list[Suggest]:
    """Mutations of the best recipes among those that `is_candidate`; none where no such trial is complete."""
    seed = builder.seed
    parents = best_parents([result for result in history if _is_comparable(result)], is_candidate)
    if not parents:
        return []
    choice = random.Random(f"{seed}:{number}:parents")  # noqa: S311 - nothing secret
    draws: list[Suggest] = []
    for place in range(N_MUTATIONS):
        recipe = choice.choice(parents).recipe
        own = builder.of(recipe.model)
        values = values_of(recipe, own.space, own.split_of(recipe), depth=own.shape.depth, asked_depth=own.asked_depth)
        draws.append(Mutation(values, f"{seed}:{number}:near:{place}"))
    return draws


def best_parents(results: Sequence[TrialResult], is_candidate: Callable[[TrialResult], bool]) -> list[TrialResult]:
    """The `N_PARENTS` candidates with the largest lead over the best trial of no more FLOPs, the largest first.

    Ranked by accuracy alone, the parents would all have many FLOPs; by lead, every part of the Pareto front has some.
    """
    # From the cheapest trial up, so that `best_so_far` is the best of no more FLOPs.
    leads, best_so_far = [], 0.0
    # In the order of FLOPs, `best_so_far` is the best accuracy of no more FLOPs than the current trial's.
    for result in sorted(results, key=lambda result: (result.flops or 0, result.number)):
        accuracy = result.accuracy or 0.0
        if is_candidate(result):
            leads.append((best_so_far - accuracy, result.number, result))
        # A trial off the front has a negative lead; it is a parent only where there are too few others.
        best_so_far = max(best_so_far, accuracy)
    return [result for _, _, result in sorted(leads)[:N_PARENTS]]


def _is_comparable(result: TrialResult) -> bool:
    return accuracy_at_end(result) is not None and result.duplicate_of is None
