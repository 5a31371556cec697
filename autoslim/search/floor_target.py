"""`FloorTarget`: the FLOPs that a trial aims at where the cheapest model above an accuracy floor is looked for.

There is no budget to solve recipes onto; where the floor is crossed is what the search has to find. Each trial narrows it down between the
cheapest trial that keeps to the floor and the most accurate cheaper one that does not (*bracket*):

1. The first trial aims where trials of other models, or earlier ones of this model, have lost no more than is allowed.
2. The next ones aim where the line between the two ends of the bracket crosses the floor, and at least a quarter of its width away from
   both ends (safeguarded false position). At first the upper end is the dense model.
3. A bracket of `RESOLUTION` is closed. As a recipe that misses is no proof that others do, trials then aim one, two and four steps
   below the cheapest that keeps, in turns, with whatever recipes the sampler likes best there.

Nothing but the trials so far decides, so that a resumed search aims alike.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from autoslim.core.accuracy_goal import Floor
from autoslim.core.constraints import CostLimits
from autoslim.core.record import Record
from autoslim.core.result import TrialResult, TrialState
from autoslim.core.selection import cheapest_above
from autoslim.search.prior import Prior

FIRST_SHARE = 0.7
"""The first target, as a share of the dense model's FLOPs, where nothing is known. Most methods lose little at 70 %."""
RESOLUTION = 0.03
"""Width of a closed bracket, as a share of the dense model's FLOPs. With 2 % more searches stay above where the floor is crossed:
those in which an unlucky recipe has missed the floor early, and the bracket narrows above it."""
_STEPS = (1, 2, 4)
_GRID = 200
"""Targets are multiples of half a percent, so that trials have targets in common: what is solved for one serves the next."""
_MARGIN = 0.25
"""Share of the bracket that a target stays away from its ends."""
_BESIDE = (0.75, 0.25, 0.5)
"""Where in the bracket trials aim that start while others aim into it, in turns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloorTarget(Record):
    """`first` is the first target as a share of `dense_flops`, multiply-accumulates."""

    floor: Floor
    dense_flops: int
    dense_accuracy: float
    first: float = FIRST_SHARE

    @property
    def label(self) -> str:
        return self.floor.label

    def flops(self, history: Sequence[TrialResult], *, cheapest: int, limits: CostLimits) -> int:
        """Multiply-accumulates for the next trial. `history` are the trials so far, `cheapest` is what the space reaches.

        Trials of earlier searches (numbers below 0) say where the floor is missed; a model that keeps to it can only be a trial of this
        search.
        """
        own = [result for result in history if result.number >= 0]
        kept = cheapest_above(own, self.floor, limits)
        upper = (self.dense_flops, self.dense_accuracy) if kept is None else (kept.flops or 0, kept.accuracy or 0.0)
        missed = [result for result in history if _is_try(result) and _cost(result) < upper[0] and not self._keeps(result)]
        if kept is None and all(result.number < 0 for result in missed):
            return self._rounded(self._first(history), cheapest)
        ended = [result for result in missed if result.state is not TrialState.RUNNING]
        lower = max(((result.accuracy or 0.0, _cost(result)) for result in ended), default=None)
        low, accuracy = (cheapest, 0.0) if lower is None else (lower[1], lower[0])
        width = upper[0] - low
        if width <= RESOLUTION * self.dense_flops:
            later = sum(kept is None or result.number > kept.number for result in missed)
            return self._rounded(upper[0] - _STEPS[later % len(_STEPS)] * RESOLUTION * self.dense_flops, cheapest)
        running = sum(result.state is TrialState.RUNNING and _cost(result) > low for result in missed)
        if running:
            return self._rounded(low + _BESIDE[(running - 1) % len(_BESIDE)] * width, cheapest)
        crossing = _crossing(self.floor.least, accuracy, upper[1])
        return self._rounded(low + min(max(crossing, _MARGIN), 1 - _MARGIN) * width, cheapest)

    def _first(self, history: Sequence[TrialResult]) -> float:
        earlier = [result.replace(number=0) for result in history if result.number < 0]
        found = cheapest_above(earlier, self.floor)
        return self.first * self.dense_flops if found is None else float(found.flops or 0)

    def _keeps(self, result: TrialResult) -> bool:
        return result.state is TrialState.COMPLETE and self.floor.keeps(result.accuracy)

    def _rounded(self, flops: float, cheapest: int) -> int:
        # Down, but for an error of binary numbers: rounded up it could be the cost of the trial that it is to be cheaper than.
        step = self.dense_flops / _GRID
        return max(cheapest, int(math.floor(flops / step + 1e-6) * step))


def _is_try(result: TrialResult) -> bool:
    """Whether the trial says, or is about to say, how accurate a recipe of its FLOPs is."""
    if result.duplicate_of is not None:
        return False
    return result.state in (TrialState.COMPLETE, TrialState.STOPPED, TrialState.RUNNING)


def _cost(result: TrialResult) -> int:
    """A running trial is counted with what it was solved onto."""
    return result.flops or result.recipe.budget


def _crossing(least: float, low: float, high: float) -> float:
    """Where the line from `low` to `high` is at `least`, as a share of the way; 1 where it does not rise."""
    return (least - low) / (high - low) if high > low else 1.0


def prior_shares(prior: Prior, lost: float, methods: Sequence[str]) -> dict[str, float]:
    """By the table's name, the least share of the dense model's FLOPs at which another model lost at most `lost`, a share of the images;
    without tables that have no such trial of these methods."""
    found = {}
    for table in prior:
        shares = [trial.flops for trial in table.trials if trial.is_of(methods) and trial.lost <= lost]
        if shares:
            found[table.model] = min(shares)
    return found


def first_share(shares: Iterable[float]) -> float:
    """Where a search begins, of other models' `prior_shares`."""
    known = list(shares)
    return statistics.fmean(known) if known else FIRST_SHARE
