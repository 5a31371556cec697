"""Why this model: one sentence for each budget, with what else the front offers there."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from autoslim.core.budget import format_flops
from autoslim.core.constraints import CostLimits
from autoslim.core.record import Record
from autoslim.core.result import Origin, ParetoFront, TrialResult
from autoslim.core.score import ACCURACY, Score
from autoslim.core.selection import NO_LIMITS, eligible, within_limits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation(Record):
    """`next_cheaper` and `next_costlier` are the front's neighbours of the selected trial, `knee` is the number of the front's knee.

    `budget_share` is how much of the budget the selected model uses, from 0 to 1.
    """

    sentence: str
    budget_share: float
    next_cheaper: TrialResult | None
    next_costlier: TrialResult | None
    knee: int | None

    def describe_neighbours(self, score: Score = ACCURACY, images: int | None = None) -> list[str]:
        """The front's neighbours, one line each; `score` is what the search compares, on so many validation `images`."""
        lines = []
        for which, result in (("next cheaper", self.next_cheaper), ("next costlier", self.next_costlier)):
            if result is not None:
                knee = ", the knee of the front" if result.number == self.knee else ""
                lines.append(f"{which} on the front: {named_text(result)}, {_point(result, score, images)}{knee}")
        return lines


def explain(
    results: Sequence[TrialResult],
    selected: TrialResult,
    budget: int,
    limits: CostLimits = NO_LIMITS,
    *,
    score: Score = ACCURACY,
    images: int | None = None,
) -> Explanation:
    """Why `selected` is the best within `budget` (multiply-accumulates) and `limits`; `score` is what was compared, on so many validation
    `images`: with their number, accuracies have intervals."""
    sentence = _sentence(results, selected, budget, limits, score, images)
    return on_front(results, selected, sentence, budget_share=_flops(selected) / budget)


def on_front(results: Sequence[TrialResult], selected: TrialResult, sentence: str, *, budget_share: float) -> Explanation:
    """The sentence with what the front of `results` offers beside the selected trial."""
    front = ParetoFront.of(results).results
    others = [r for r in front if r.number != selected.number]
    knee = knee_point(front)
    return Explanation(
        sentence=sentence,
        budget_share=budget_share,
        next_cheaper=max((r for r in others if _flops(r) < _flops(selected)), key=_flops, default=None),
        next_costlier=min((r for r in others if _flops(r) > _flops(selected)), key=_flops, default=None),
        knee=None if knee is None else knee.number,
    )


def knee_point(front: Sequence[TrialResult]) -> TrialResult | None:
    """Where the front bends most: farthest above the line between its ends, both axes scaled to it. None with fewer than three points."""
    if len(front) < 3:
        return None
    first, last = front[0], front[-1]

    def above(result: TrialResult) -> float:
        along = (_flops(result) - _flops(first)) / (_flops(last) - _flops(first))
        up = (_accuracy(result) - _accuracy(first)) / (_accuracy(last) - _accuracy(first))
        return up - along

    # The ends are on the line by definition.
    return max(front[1:-1], key=lambda result: (above(result), -result.number))


def _sentence(
    results: Sequence[TrialResult], selected: TrialResult, budget: int, limits: CostLimits, score: Score, images: int | None
) -> str:
    use = f"it uses {_flops(selected) / budget:.1%} of the budget"
    # A reused model was not compared with others here: this search ran no trials for its budget.
    if selected.origin is Origin.REUSED:
        return (
            f"{named_text(selected)} comes from an earlier search, where it was {selected.reused_from}: "
            f"{shown_text(selected, score, images)} on the same validation images; nothing was trained for it; {use}"
        )
    within = [result for result in eligible(results, limits) if _flops(result) <= budget]
    # The same recipe with another seed or more epochs is not an alternative to it.
    own = selected.recipe
    others = [result for result in within if (result.recipe.steps, result.recipe.model) != (own.steps, own.model)]
    lead = _lead(results, len(within), budget, limits, score)
    sentence = f"{named_text(selected)} {lead}, {shown_text(selected, score, images)} on the validation images; {use}"
    if selected.origin is Origin.REFINEMENT:
        sentence += f"; {refinement_text(within, selected, score)}"
    if others:
        rival = max(others, key=_accuracy)
        sentence += f"; the best other recipe, {named_text(rival)}, has {shown_text(rival, score, images)}"
    return sentence


def _lead(results: Sequence[TrialResult], compared: int, budget: int, limits: CostLimits, score: Score) -> str:
    """How many trials the selected one was compared with, and how many complete ones it was not compared with."""
    repeated = sum(_flops(result) <= budget for result in within_limits(results, limits)) - compared
    besides = (
        f", not counting {repeated} trial{'' if repeated == 1 else 's'} of {score.inferior} refined recipes" if repeated else ""
    )
    if compared == 1:
        return f"is the only complete trial within this budget{besides}"
    return f"is the {score.superlative} of the {compared} complete trials within this budget{besides}"


def refinement_text(within: Sequence[TrialResult], selected: TrialResult, score: Score) -> str:
    text = f"its recipe was refined for {selected.recipe.training.epochs:g} epochs"
    # Recipes that are equal except for the seed are one refined recipe.
    recipe = selected.recipe.replace(seed=0)
    trials = [r for r in within if r.origin is Origin.REFINEMENT and r.recipe.replace(seed=0) == recipe]
    if len(trials) > 1:
        text += f" with {len(trials)} seeds, {score.text(statistics.fmean(map(_accuracy, trials)), 2)} on average"
    return text


def named_text(result: TrialResult) -> str:
    return f"trial {result.number} ({result.recipe.title})"


def _point(result: TrialResult, score: Score, images: int | None) -> str:
    return f"{shown_text(result, score, images)} at {format_flops(_flops(result))}"


def shown_text(result: TrialResult, score: Score, images: int | None) -> str:
    return score.spoken(_accuracy(result), images)


def _flops(result: TrialResult) -> int:
    return result.flops or 0


def _accuracy(result: TrialResult) -> float:
    return result.accuracy or 0.0
