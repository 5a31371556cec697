"""Which model is the best within a budget: the one rule of the selection, the console, the events, the metrics and the reports.

The best within a budget is the most accurate on the validation images of all complete trials that keep to the budget and to the limits
beside it, and of equally accurate ones the cheaper. A recipe is solved so that it fills its budget, but a model that was solved for
50 % keeps to 70 % as well. Therefore more FLOPs never give a less accurate model.

Recipes that were refined over several seeds are the one exception to "all complete trials". The seeds are there to choose between the
refined recipes of one budget: the trials of the recipe with the best mean over its seeds stay, and those of the others are left out,
because the best of several seeds is mostly luck. A trial that stays is compared with every other one by its own accuracy: what is
delivered is its model, and not a mean. Which trials are left out does not depend on the budget asked for, so that more FLOPs still
never give a less accurate model.

Where an accuracy is held on to instead (`accuracy_goal`), the best is the cheapest of the same trials that keeps to it, and of equally
cheap ones the more accurate. A recipe that was refined over several seeds keeps to it where its mean does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from autoslim.core.accuracy_goal import Floor
from autoslim.core.constraints import CostLimits
from autoslim.core.result import Origin, TrialResult, TrialState

NO_LIMITS = CostLimits()

NO_TRIAL = "no trial was completed within this budget"
"""Why a budget has no model."""


def best_within(results: Iterable[TrialResult], flops: int, limits: CostLimits = NO_LIMITS) -> TrialResult | None:
    """The best trial within `flops` multiply-accumulates and `limits`; None where no complete trial keeps to them."""
    return _best(eligible(results, limits), flops)


def best_within_budgets(
    results: Iterable[TrialResult], budgets: Mapping[str, int], limits: CostLimits = NO_LIMITS, floor: Floor | None = None
) -> dict[str, TrialResult]:
    """`best_within` for each label of `budgets` (multiply-accumulates), and the cheapest trial that keeps to `floor` under its label; one
    without any such trial is left out."""
    candidates = eligible(results, limits)
    found = {label: _best(candidates, flops) for label, flops in budgets.items()}
    if floor is not None:
        found[floor.label] = _cheapest(candidates, floor)
    return {label: result for label, result in found.items() if result is not None}


def cheapest_above(results: Iterable[TrialResult], floor: Floor, limits: CostLimits = NO_LIMITS) -> TrialResult | None:
    """The cheapest trial that keeps to `floor` and `limits`; None where no complete trial does."""
    return _cheapest(eligible(results, limits), floor)


def eligible(results: Iterable[TrialResult], limits: CostLimits = NO_LIMITS) -> list[TrialResult]:
    """The trials that the best one within any budget is chosen from: complete, no duplicates, within `limits`, not left out."""
    kept = within_limits(results, limits)
    left_out = _worse_recipes(kept)
    return [result for result in kept if result.number not in left_out]


def within_limits(results: Iterable[TrialResult], limits: CostLimits = NO_LIMITS) -> list[TrialResult]:
    """The complete trials within `limits`, duplicates left out: the trial that one repeats is among the results, too."""
    return [r for r in results if r.state is TrialState.COMPLETE and r.duplicate_of is None and r.keeps_to(limits)]


def _best(candidates: Sequence[TrialResult], flops: int) -> TrialResult | None:
    within = [result for result in candidates if result.flops is not None and result.flops <= flops]
    # The earliest of equals, so that the choice does not change when an equal trial ends later.
    return max(within, key=lambda result: (result.accuracy or 0.0, -(result.flops or 0), -result.number), default=None)


def _cheapest(candidates: Sequence[TrialResult], floor: Floor) -> TrialResult | None:
    means = _means_over_seeds(candidates)
    able = [result for result in candidates if floor.keeps(means.get(result.number, result.accuracy))]
    return min(able, key=lambda result: (result.flops or 0, -(result.accuracy or 0.0), result.number), default=None)


def _means_over_seeds(results: Sequence[TrialResult]) -> dict[int, float]:
    """By the number of each trial of the refinement, the mean accuracy of its recipe."""
    return {
        trial.number: statistics.fmean(other.accuracy or 0.0 for other in trials)
        for recipes in _refined_recipes(results).values()
        for trials in recipes.values()
        for trial in trials
    }


def _worse_recipes(results: Sequence[TrialResult]) -> set[int]:
    """The numbers of the trials whose recipe another one of the same budget surpasses in its mean over seeds."""
    left_out: set[int] = set()
    for recipes in _refined_recipes(results).values():
        # One seed alone has no mean that could be compared; it counts as any other trial.
        several = [trials for trials in recipes.values() if len(trials) > 1]
        if several:
            best = max(several, key=_rank_over_seeds)
            left_out |= {trial.number for trials in several if trials is not best for trial in trials}
    return left_out


def _rank_over_seeds(trials: Sequence[TrialResult]) -> tuple[float, int, int]:
    """The mean accuracy; of equal ones the cheaper recipe, then the earlier one, whatever order the trials ended in."""
    mean = statistics.fmean(trial.accuracy or 0.0 for trial in trials)
    return mean, -min(trial.flops or 0 for trial in trials), -min(trial.number for trial in trials)


def _refined_recipes(results: Sequence[TrialResult]) -> dict[int, dict[str, list[TrialResult]]]:
    """Trials of the refinement by the budget that they were solved for, and by their recipe without its seed."""
    found: dict[int, dict[str, list[TrialResult]]] = {}
    for result in results:
        if result.origin is Origin.REFINEMENT:
            recipes = found.setdefault(result.recipe.budget, {})
            recipes.setdefault(result.recipe.replace(seed=0).key, []).append(result)
    return found
