"""Why this model where an accuracy is held on to: one sentence; and what comes nearest where no trial keeps to it."""

from __future__ import annotations

from collections.abc import Sequence

from autoslim.core.accuracy_goal import AccuracyGoal
from autoslim.core.budget import format_flops
from autoslim.core.constraints import CostLimits
from autoslim.core.result import BaseFacts, Origin, TrialResult
from autoslim.core.score import ACCURACY, Score
from autoslim.core.selection import NO_LIMITS, eligible
from autoslim.search.explanation import Explanation, named_text, on_front, refinement_text, shown_text


def explain_floor(
    results: Sequence[TrialResult],
    selected: TrialResult,
    goal: AccuracyGoal,
    base: BaseFacts,
    limits: CostLimits = NO_LIMITS,
    *,
    score: Score = ACCURACY,
) -> Explanation:
    """Why `selected` is the cheapest that keeps to `goal` and `limits`; `score` is what was compared."""
    floor = goal.floor(base.dense_accuracy)
    able = [result for result in eligible(results, limits) if floor.keeps(result.accuracy)]
    own = selected.recipe
    others = [result for result in able if (result.recipe.steps, result.recipe.model) != (own.steps, own.model)]
    count = "the only complete trial" if len(able) == 1 else f"the cheapest of the {len(able)} complete trials"
    sentence = (
        f"{named_text(selected)} is {count} with {goal_text(goal, base, score)}: "
        f"{shown_text(selected, score, base.validation_images)} on the validation images at "
        f"{format_flops(selected.flops or 0)}, {(selected.flops or 0) / base.dense_flops:.1%} of the dense model's"
    )
    if selected.origin is Origin.REFINEMENT:
        sentence += f"; {refinement_text(able, selected, score)}"
    if others:
        rival = min(others, key=lambda result: (result.flops or 0, result.number))
        sentence += f"; the cheapest other recipe, {named_text(rival)}, has {format_flops(rival.flops or 0)}"
    return on_front(results, selected, sentence, budget_share=1.0)


def why_missed(
    results: Sequence[TrialResult],
    goal: AccuracyGoal,
    base: BaseFacts,
    limits: CostLimits = NO_LIMITS,
    *,
    score: Score = ACCURACY,
) -> str:
    """A sentence for a goal that no trial keeps to, with the nearest one."""
    missed = f"no complete trial has {goal_text(goal, base, score)}"
    # Of equally accurate ones the cheaper.
    nearest = max(eligible(results, limits), key=lambda result: (result.accuracy or 0.0, -(result.flops or 0)), default=None)
    if nearest is None:
        return missed
    short = goal.floor(base.dense_accuracy).least - (nearest.accuracy or 0.0)
    return (
        f"{missed}; the nearest, {named_text(nearest)} at {format_flops(nearest.flops or 0)}, has "
        f"{shown_text(nearest, score, base.validation_images)}, {score.difference(short)} too little"
    )


def goal_text(goal: AccuracyGoal, base: BaseFacts, score: Score = ACCURACY) -> str:
    """`an accuracy at most 1 point below the dense model's 94.10% (92.4% to 95.4%)`."""
    if goal.max_drop is None:
        return f"an {score.name} of {goal.words(score)}"
    return f"an {score.name} {goal.words(score)}'s {score.spoken(base.dense_accuracy, base.validation_images)}"
