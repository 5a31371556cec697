"""The end of a search: the best recipes within each budget are tuned longer, and the best of those is handed over.

A search compares recipes at few epochs each. What it has found is worth more of them: a share of all the compute is kept back for the
best recipe or two of every budget, over as many seeds as are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from autoslim.core.recipe import Recipe
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.search.stopping import LEAST, spent_epochs

MOST = 10.0
"""And never more than so many times."""
_CANDIDATES = 2
"""Recipes a budget, where the share is enough to tune so many for twice as long."""


def searched(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Those that the search itself proposed."""
    return [result for result in results if result.origin not in (Origin.REFINEMENT, Origin.REUSED)]


def final_epochs(results: Sequence[TrialResult], *, share: float) -> float:
    """What `share` of all the compute comes to, where the rest is what the search has spent."""
    return spent_epochs(searched(results)) * share / (1 - share)


def final_recipes(
    results: Sequence[TrialResult], budgets: Mapping[str, int], *, share: float, seeds: int = 1
) -> list[tuple[str, Recipe]]:
    """The trials to run, with the label of their budget, a pure function of the search's results; none where the share is too small.

    Every budget gets equally many epochs. One recipe a budget and seed gets them, or two where that still doubles their epochs.
    """
    epochs = final_epochs(results, share=share)
    candidates = {label: best_at(results, flops) for label, flops in budgets.items()}
    reached = {label: found for label, found in candidates.items() if found}
    if not reached or epochs <= 0:
        return []
    each = epochs / len(reached) / seeds
    recipes = []
    for label, found in reached.items():
        before = found[0].recipe.training.epochs
        count = max(1, min(_CANDIDATES, len(found), math.floor(each / (2 * before))))
        longer = min(each / count, MOST * before)
        if longer < LEAST * before:
            continue
        for result in found[:count]:
            recipe = result.recipe
            training = recipe.training.replace(epochs=round(longer, 1))
            recipes += [(label, recipe.replace(training=training, seed=recipe.seed + offset)) for offset in range(seeds)]
    return recipes


def best_at(results: Sequence[TrialResult], flops: int) -> list[TrialResult]:
    """The complete trials that were solved onto this budget, the most accurate first and the cheaper of equals."""
    solved = [
        result
        for result in searched(results)
        if result.recipe.budget == flops and result.state is TrialState.COMPLETE and result.duplicate_of is None
    ]
    return sorted(solved, key=lambda result: (-(result.accuracy or 0.0), result.flops or 0, result.number))
