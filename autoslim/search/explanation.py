"""Why this model: one sentence for each budget, with what else the front offers there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autoslim.core.budget import format_flops
from autoslim.core.record import Record
from autoslim.core.result import Origin, ParetoFront, TrialResult, TrialState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reason(Record):
    """`cheaper` and `costlier` are the front's neighbours of the chosen trial, `knee` the number of the front's knee."""

    sentence: str
    cheaper: TrialResult | None
    costlier: TrialResult | None
    knee: int | None


def reason(results: Sequence[TrialResult], chosen: TrialResult, budget: int) -> Reason:
    front = ParetoFront.of(results).results
    others = [r for r in front if r.number != chosen.number]
    knee = knee_point(front)
    return Reason(
        sentence=_sentence(results, chosen, budget),
        cheaper=max((r for r in others if _flops(r) < _flops(chosen)), key=_flops, default=None),
        costlier=min((r for r in others if _flops(r) > _flops(chosen)), key=_flops, default=None),
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

    return max(front[1:-1], key=lambda result: (above(result), -result.number))


def _sentence(results: Sequence[TrialResult], chosen: TrialResult, budget: int) -> str:
    solved = [r for r in results if r.recipe.budget == budget and r.state is TrialState.COMPLETE and r.duplicate_of is None]
    rivals = sorted((r for r in solved if r.recipe.steps != chosen.recipe.steps), key=_accuracy)
    name = f"trial {chosen.number} ({chosen.recipe.method})"
    if chosen.origin == Origin.REUSED:
        return (
            f"{name} is taken over from an earlier search, {chosen.reused_from}, whose best model within this budget it is: "
            f"{_accuracy(chosen):.2%} on the same validation images; nothing was trained for it"
        )
    if chosen.recipe.budget != budget:
        return f"{name} is taken, because no trial solved onto this budget is complete and it is the best of those within it"
    seeds = [r for r in solved if r.origin == Origin.REFINEMENT and r.recipe.replace(seed=0) == chosen.recipe.replace(seed=0)]
    measure = f"the best mean of {len(seeds)} seeds" if len(seeds) > 1 else "the highest accuracy"
    longer = f", tuned for {chosen.recipe.training.epochs:g} epochs in the end" if chosen.origin == Origin.REFINEMENT else ""
    text = f"{name} is taken, because it has {measure} on the validation images of {len(solved)} complete trials at this budget, "
    text += f"{_accuracy(chosen):.2%}{longer}"
    if rivals:
        rival = rivals[-1]
        text += f"; the best other recipe there, trial {rival.number} ({rival.recipe.method}), has {_accuracy(rival):.2%}"
    return text


def offers(found: Reason) -> list[str]:
    """The knee and the neighbours, a line each."""
    lines = []
    for which, result in (("cheaper", found.cheaper), ("dearer", found.costlier)):
        if result is not None:
            text = f"trial {result.number} ({result.recipe.method}), {_accuracy(result):.2%} at {format_flops(_flops(result))}"
            lines.append(f"the front's next {which} one: {text}" + (", its knee" if result.number == found.knee else ""))
    return lines


def _flops(result: TrialResult) -> int:
    return result.flops or 0


def _accuracy(result: TrialResult) -> float:
    return result.accuracy or 0.0
