"""Which models a search may delete, and whether the search was worth it. The rule of the selection itself is `core.selection`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from autoslim.core.accuracy_goal import Floor
from autoslim.core.constraints import CostLimits
from autoslim.core.interval import Interval, separate_difference
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.result import Origin, ParetoFront, TrialResult, TrialState
from autoslim.core.score import ACCURACY, Score
from autoslim.core.selection import NO_LIMITS, best_within, best_within_budgets
from autoslim.search.refinement import searched


def outclassed(
    results: Sequence[TrialResult], budgets: Mapping[str, int], limits: CostLimits, floor: Floor | None = None
) -> list[TrialResult]:
    """The search's own complete trials that are selected for no budget and no `floor`, whatever follows, and are not on the front
    either."""
    kept = {result.number for result in ParetoFront.of(results).results}
    kept |= {result.number for result in best_within_budgets(results, budgets, limits, floor).values()}
    # A trial of the refinement that leads now may be left out when further seeds have ended: then the best trial of the search
    # follows.
    kept |= {result.number for result in best_within_budgets(searched(results), budgets, limits, floor).values()}
    # A model whose latency keeps to the limit as predicted may be selected once better ones have been measured and are too slow.
    if limits.latency_ms is not None:
        kept |= {result.number for result in results if result.keeps_to(limits)}
    done = [r for r in searched(results) if r.state is TrialState.COMPLETE and r.duplicate_of is None]
    return [result for result in done if result.number not in kept]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgainstControl(Record):
    """`margin` is the chosen trial's accuracy less the control's, in shares of the images; 0 where the control was chosen. `interval` is
    around it, where the number of images is known."""

    chosen: int
    control: int
    margin: float
    interval: Interval | None = dataclasses.field(default=None, metadata=OPTIONAL)

    def describe(self, score: Score = ACCURACY) -> str:
        """Half a sentence; `score` is what the search compares."""
        if self.chosen == self.control:
            return f"the random recipe (trial {self.control}) was itself the best; the search did not beat it"
        if self.margin == 0:
            return f"the search did not beat a random recipe at the same budget (trial {self.control}): equal validation {score.name}"
        text = f"the search beat a random recipe at the same budget (trial {self.control}) by {score.difference(self.margin)}"
        if self.interval is None:
            return text
        low, high = 100 * self.interval.low, 100 * self.interval.high
        return f"{text} (95 %: {low:.2f} to {high:.2f}, unpaired){', within the noise' if low <= 0 else ''}"


def against_control(
    results: Sequence[TrialResult],
    budgets: Mapping[str, int],
    label: str,
    limits: CostLimits = NO_LIMITS,
    *,
    images: int | None = None,
) -> AgainstControl | None:
    """The search's best trial within a budget beside the random control that was solved for it; None where one of them is missing. With the
    number of `images` that the accuracies are shares of, the margin has an interval.

    Where the best trial is itself a control, also one of a smaller budget, it is the control that nothing has beaten.

    Trials of the refinement are left out, so that both had equally many epochs.

    The chosen one is the best of many on the validation split, the control a single one: the margin says what a search gives over
    not searching, and is too large by the noise of a maximum. That on the test split is not.
    """
    chosen = best_within(searched(results), budgets[label], limits)
    controls = [
        result
        for result in results
        if result.origin is Origin.CONTROL and result.recipe.budget == budgets[label] and result.state is TrialState.COMPLETE
    ]
    if chosen is None or not controls:
        return None
    control = chosen if chosen.origin is Origin.CONTROL else min(controls, key=lambda result: result.number)
    accuracies = chosen.accuracy or 0.0, control.accuracy or 0.0
    # Which images a trial has right is not kept, so that the interval cannot be the paired one.
    interval = separate_difference(*accuracies, images) if images and chosen.number != control.number else None
    return AgainstControl(chosen=chosen.number, control=control.number, margin=accuracies[0] - accuracies[1], interval=interval)
