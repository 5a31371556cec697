"""The end of a search: the best recipes within each budget are trained once more, for longer, and the best of these models is returned.

A search compares recipes at few epochs each, and each of them gets better with more. A share of all the compute is kept for one or two
recipes of each budget, over as many seeds as the job asks for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from autoslim.core.accuracy_goal import Floor
from autoslim.core.constraints import CostLimits
from autoslim.core.recipe import Recipe
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.core.selection import NO_LIMITS, cheapest_above, within_limits
from autoslim.search.stopping import MIN_REFINEMENT_FACTOR, spent_epochs

MAX_REFINEMENT_FACTOR = 10.0
"""A recipe is never trained for more than ten times its epochs: in a long search the share would otherwise be spent on ever less gain."""
MAX_RECIPES = 2
"""Recipes of one budget. The order of the best two at few epochs is often within the noise of the validation split; the second is trained
too where the share is enough to double the epochs of both."""
# Each of two recipes gets at least double its epochs; otherwise the best one gets all of them.
MIN_FACTOR_OF_SEVERAL = 2.0


def searched(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Those that the search itself proposed."""
    return [result for result in results if result.origin not in (Origin.REFINEMENT, Origin.REUSED)]


def refinement_epochs(results: Sequence[TrialResult], *, share: float) -> float:
    """Epochs for the refinement: `share` of all the compute, where the search has spent the rest."""
    return spent_epochs(searched(results)) * share / (1 - share)


def refinement_recipes(
    results: Sequence[TrialResult],
    budgets: Mapping[str, int],
    *,
    share: float,
    seeds: int = 1,
    floor: Floor | None = None,
    limits: CostLimits = NO_LIMITS,
) -> list[tuple[str, Recipe]]:
    """The trials to run, each with the label of its budget, or of the accuracy `floor`; none where the share is too small. A pure function
    of the search's results.

    Every budget gets the same number of epochs, and within it every recipe and seed.
    """
    epochs = refinement_epochs(results, share=share)
    best = {label: found for label, flops in budgets.items() if (found := best_at(results, flops))}
    if floor is not None and (found := best_near(results, floor, limits)):
        best[floor.label] = found
    if not best or epochs <= 0:
        return []
    # Equal shares: the budgets are the user's, and none of them comes first.
    each = epochs / len(best) / seeds
    recipes = []
    for label, found in best.items():
        before = found[0].recipe.training.epochs
        # As many recipes as the share can train for long enough, and at least the best one.
        count = max(1, min(MAX_RECIPES, len(found), math.floor(each / (MIN_FACTOR_OF_SEVERAL * before))))
        longer = min(each / count, MAX_REFINEMENT_FACTOR * before)
        # Slightly longer training gains less than it costs; the model of the search is returned instead.
        if longer < MIN_REFINEMENT_FACTOR * before:
            continue
        # The recipe stays, its weights are trained anew with another schedule; further seeds measure the noise of training.
        for result in found[:count]:
            recipe = result.recipe
            training = recipe.training.replace(epochs=round(longer, 1))
            recipes += [(label, recipe.replace(training=training, seed=recipe.seed + offset)) for offset in range(seeds)]
    return recipes


def best_at(results: Sequence[TrialResult], flops: int) -> list[TrialResult]:
    """The complete trials that were solved onto the budget of `flops`, the most accurate first and the cheaper of equals."""
    solved = [
        result
        for result in searched(results)
        if result.recipe.budget == flops and result.state is TrialState.COMPLETE and result.duplicate_of is None
    ]
    return sorted(solved, key=lambda result: (-(result.accuracy or 0.0), result.flops or 0, result.number))


def best_near(results: Sequence[TrialResult], floor: Floor, limits: CostLimits = NO_LIMITS) -> list[TrialResult]:
    """What may make the model above `floor` cheaper, or surer: the most accurate trial below it that costs less than the cheapest above it,
    which more epochs may lift over it, and then that cheapest one itself."""
    own = within_limits(searched(results), limits)
    kept = cheapest_above(own, floor)
    missed = [result for result in own if not floor.keeps(result.accuracy) and (kept is None or _flops(result) < _flops(kept))]
    missed.sort(key=lambda result: (-(result.accuracy or 0.0), _flops(result), result.number))
    return missed[:MAX_RECIPES] if kept is None else [*missed[:1], kept]


def _flops(result: TrialResult) -> int:
    return result.flops or 0
