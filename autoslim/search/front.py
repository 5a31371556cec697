"""The model for each budget, and whether the search was worth it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from autoslim.record import Record
from autoslim.result import ParetoFront, TrialResult, TrialState


def choose(results: Sequence[TrialResult], budgets: Mapping[str, int]) -> dict[str, TrialResult]:
    """The most accurate complete trial within each budget, the cheaper of equals; a budget without any is left out.

    It need not have been solved onto that budget: one that is both cheaper and more accurate is the better model.
    """
    front = ParetoFront.of(results)
    cheapest = front.results[0].flops if front.results else None
    return {label: front.best_within(flops) for label, flops in budgets.items() if cheapest is not None and cheapest <= flops}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgainstControl(Record):
    """`margin` is the chosen trial's accuracy less the control's, in shares of the images; 0 where the control was chosen."""

    chosen: int
    control: int
    margin: float

    @property
    def beaten(self) -> bool:
        return self.margin > 0


def against_control(results: Sequence[TrialResult], budgets: Mapping[str, int], label: str) -> AgainstControl | None:
    """The chosen trial beside the blind control that was solved onto the same budget; `None` when one of them is missing.

    The chosen one is the best of many on the validation split, the control one draw: the margin says what a search gives over
    not searching, and flatters it by the noise of a maximum. The test split does not.
    """
    chosen = choose(results, budgets).get(label)
    controls = [
        result
        for result in results
        if result.origin == "random" and result.recipe.budget == budgets[label] and result.state is TrialState.COMPLETE
    ]
    if chosen is None or not controls:
        return None
    control = min(controls, key=lambda result: result.number)
    margin = (chosen.accuracy or 0.0) - (control.accuracy or 0.0)
    return AgainstControl(chosen=chosen.number, control=control.number, margin=margin)
