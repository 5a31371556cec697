"""The model for each budget, and whether the search was worth it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from autoslim.core.constraints import CostLimits
from autoslim.core.record import Record
from autoslim.core.result import Origin, ParetoFront, TrialResult, TrialState
from autoslim.search.refinement import searched

FILLS = 0.95
"""An earlier search's model answers a budget that it was not solved onto where it is within it and takes up so much of it."""


def outclassed(results: Sequence[TrialResult], budgets: Mapping[str, int], limits: CostLimits) -> list[TrialResult]:
    """Complete trials that can be chosen for no budget any more, whatever follows: off the front, and not the best solved onto theirs.

    Where the latency is limited, whoever keeps to it as predicted may come into question once the better ones have been measured.
    """
    kept = {result.number for result in ParetoFront.of(results).results}
    kept |= {result.number for result in choose(results, budgets, limits).values()}
    if limits.latency_ms is not None:
        kept |= {result.number for result in results if result.keeps_to(limits)}
    done = [r for r in searched(results) if r.state is TrialState.COMPLETE and r.duplicate_of is None]
    return [result for result in done if result.number not in kept]


def choose(
    results: Sequence[TrialResult], budgets: Mapping[str, int], limits: CostLimits | None = None
) -> dict[str, TrialResult]:
    """The most accurate complete trial for each budget, the cheaper of equals; a budget without any is left out.

    Those solved onto the budget come first: who asks for 2.3 G has 2.3 G to spend, and a cheaper trial that is ahead by the noise of
    a validation split (`cheaper_and_better` names it) would leave most of that unused. Without any, it is the best within the budget.
    Where recipes were tuned over several seeds at the end, the one with the best mean is taken, and of it the best seed. Nothing is
    chosen that is above one of the `limits`.
    """
    chosen = {}
    for label, flops in budgets.items():
        allowed = [r for r in results if limits is None or r.keeps_to(limits)]
        solved = ParetoFront.of(_best_over_seeds([r for r in allowed if is_for(r, flops)]))
        front = solved if solved.results else ParetoFront.of(allowed)
        within = [r for r in front.results if r.flops is not None and r.flops <= flops]
        if within:
            chosen[label] = within[-1]
    return chosen


def is_for(result: TrialResult, budget: int) -> bool:
    """Whether it was solved onto this budget, or taken over to answer it."""
    return result.recipe.budget == budget or (result.origin == Origin.REUSED and fills(result, budget))


def fills(result: TrialResult, budget: int) -> bool:
    return result.flops is not None and FILLS * budget <= result.flops <= budget


def _best_over_seeds(results: Sequence[TrialResult]) -> Sequence[TrialResult]:
    """Those of the recipe with the best mean over seeds; all of them where no recipe has several."""
    groups: dict[str, list[TrialResult]] = {}
    for result in results:
        if result.origin == Origin.REFINEMENT and result.state is TrialState.COMPLETE and result.duplicate_of is None:
            groups.setdefault(result.recipe.replace(seed=0).key, []).append(result)
    several = [group for group in groups.values() if len(group) > 1]
    return max(several, key=lambda group: statistics.fmean(r.accuracy or 0.0 for r in group)) if several else results


def cheaper_and_better(results: Sequence[TrialResult], chosen: Mapping[str, TrialResult]) -> dict[str, TrialResult]:
    """By budget, the trial of the front that dominates the chosen one, where there is one."""
    front = ParetoFront.of(results).results
    return {label: better[-1] for label, mine in chosen.items() if (better := [r for r in front if r.dominates(mine)])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgainstControl(Record):
    """`margin` is the chosen trial's accuracy less the control's, in shares of the images; 0 where the control was chosen."""

    chosen: int
    control: int
    margin: float

    @property
    def beaten(self) -> bool:
        return self.margin > 0


def against_control(
    results: Sequence[TrialResult], budgets: Mapping[str, int], label: str, limits: CostLimits | None = None
) -> AgainstControl | None:
    """The search's best trial beside the blind control that was solved onto the same budget; `None` when one of them is missing.

    What was tuned longer at the end is left out: both had the same epochs.

    The chosen one is the best of many on the validation split, the control one draw: the margin says what a search gives over
    not searching, and flatters it by the noise of a maximum. The test split does not.
    """
    chosen = choose(searched(results), budgets, limits).get(label)
    controls = [
        result
        for result in results
        if result.origin == Origin.CONTROL and result.recipe.budget == budgets[label] and result.state is TrialState.COMPLETE
    ]
    if chosen is None or not controls:
        return None
    control = min(controls, key=lambda result: result.number)
    margin = (chosen.accuracy or 0.0) - (control.accuracy or 0.0)
    return AgainstControl(chosen=chosen.number, control=control.number, margin=margin)
