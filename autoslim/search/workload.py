"""How much a search is going to train, before it has begun: what the early stopping saves, and what the end adds."""

from __future__ import annotations

import dataclasses
import math

from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.search.pruners.halving import FACTOR, rung_epochs
from autoslim.search.refinement import MOST
from autoslim.search.stopping import LEAST, search_limits

_FREE = 3
"""Every so many trials one is free (`assign`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload(Record):
    """Epochs of all the search's own `trials`, early stops included, and of the end's `finals`."""

    trials: int
    epochs: float
    finals: int
    final_epochs: float


def expected_work(job: SearchJob) -> Workload:
    """At most this much where time or a plateau end the search.

    A free trial has few of its own FLOPs to be held against and is taken for one that comes to its end; so is a control.
    """
    limits, whole = search_limits(job), job.training.epochs
    trials, epochs = 0, 0.0
    budgets = len(job.budgets)
    if not budgets:
        return Workload(trials=0, epochs=0.0, finals=0, final_epochs=0.0)
    share = _halved if job.scheduler == "halving" else _above_median if job.scheduler == "median" else _complete
    while trials < limits.trials:
        blind, free = trials < budgets, trials % _FREE == _FREE - 1
        place = round(trials * (1 - 1 / _FREE)) // budgets + 1
        next_one = whole if blind or free else share(place, whole)
        if limits.epochs is not None and epochs + whole > limits.epochs:
            break
        trials, epochs = trials + 1, epochs + next_one
    finals = budgets * job.final_seeds
    left = epochs * job.final_share / (1 - job.final_share)
    each = min(left / finals, MOST * whole)
    return Workload(
        trials=trials,
        epochs=epochs,
        finals=finals if each >= LEAST * whole else 0,
        final_epochs=finals * each if each >= LEAST * whole else 0.0,
    )


def most_work(job: SearchJob) -> Workload:
    """The upper bound of `expected_work`: every trial runs to its end."""
    return expected_work(job.replace(scheduler="none"))


def _complete(place: int, whole: float) -> float:
    return whole


def _halved(place: int, whole: float) -> float:
    """Epochs of the trial that comes to a band as the `place`-th: at each rung the best third of those so far goes on."""
    epochs, goes_on, before = 0.0, 1.0, 0.0
    for level in rung_epochs(whole):
        epochs += goes_on * (level - before)
        goes_on *= _among_best(max(1, round(goes_on * place)))
        before = level
    return epochs + goes_on * (whole - before)


def _among_best(place: int) -> float:
    """Half way between a trial that is as good as any before it, and one of a sampler that has learnt: that is the best so far."""
    return 1.0 if place < FACTOR else (1 + math.ceil(place / FACTOR) / place) / 2


def _above_median(place: int, whole: float) -> float:
    """Who ends has beaten the median of those that ended before, so that it rises: of f that ended, the next one is above with 3 / 2f."""
    if place <= FACTOR:
        return whole
    goes_on = 0.5 / math.sqrt(1 + (place - FACTOR) / FACTOR)
    return goes_on * whole + (1 - goes_on) * min(1.0, whole)
