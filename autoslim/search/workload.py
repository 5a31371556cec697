"""`Workload`: how many epochs a search is expected to train, with what the pruner saves and the refinement adds."""

from __future__ import annotations

import dataclasses

from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.search.budget_allocation import free_period, is_free
from autoslim.search.pruners import make_pruner
from autoslim.search.refinement import MAX_REFINEMENT_FACTOR
from autoslim.search.stopping import MIN_REFINEMENT_FACTOR, search_limits

_EXACT_TRIALS, _BLOCKS = 10_000, 100
"""Trials that are counted one by one; those after them in blocks of one in `_BLOCKS` of the trials before, which makes a billion trials
about a thousand blocks more. Within a block the expected epochs of a trial change by less than a percent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload(Record):
    """Epochs of all of the search's own `trials`, early stops included, and of the `refinements` of the best recipes."""

    trials: int
    epochs: float
    refinements: int
    refinement_epochs: float


def expected_work(job: SearchJob) -> Workload:
    """An estimate; less where the time or a plateau ends the search."""
    limits, whole, budgets = search_limits(job), job.training.epochs, len(job.labels)
    if not budgets:
        return Workload(trials=0, epochs=0.0, refinements=0, refinement_epochs=0.0)
    # Its estimate does not depend on the accuracy of guessing, which is known only with the data.
    pruner = make_pruner(job.scheduler, epochs=whole, chance=0.0)
    trials, epochs = 0, 0.0
    period = free_period(budgets=budgets, floor=job.goal is not None)
    while trials < limits.trials:
        if limits.epochs is not None and epochs + whole > limits.epochs:
            break
        # No trial takes more than all of its epochs, so that a block of so many keeps within the limit.
        room = limits.trials if limits.epochs is None else int((limits.epochs - epochs) / whole)
        block = min(_block_after(trials), limits.trials - trials, max(1, room))
        stopped = pruner.expected_epochs(round((trials + block // 2) * (1 - 1 / period)) // budgets + 1)
        if block > 1:
            epochs += block * (whole + (period - 1) * stopped) / period
        else:
            # A control is never stopped, and a free trial has few others of its FLOPs to be compared with.
            epochs += whole if trials < len(job.budgets) or is_free(trials, period) else stopped
        trials += block
    return _with_refinement(job, trials, epochs)


def _block_after(trials: int) -> int:
    """How many of the next trials are taken together: a job may ask for any number of them, and late ones hardly differ."""
    return 1 if trials < _EXACT_TRIALS else trials // _BLOCKS


def _with_refinement(job: SearchJob, trials: int, epochs: float) -> Workload:
    """The work of the trials, and that of training the best of each budget for longer."""
    whole, refinements = job.training.epochs, len(job.labels) * job.final_seeds
    each = min(epochs * job.final_share / (1 - job.final_share) / refinements, MAX_REFINEMENT_FACTOR * whole)
    if each < MIN_REFINEMENT_FACTOR * whole:
        return Workload(trials=trials, epochs=epochs, refinements=0, refinement_epochs=0.0)
    return Workload(trials=trials, epochs=epochs, refinements=refinements, refinement_epochs=refinements * each)


def most_work(job: SearchJob) -> Workload:
    """The upper bound of `expected_work`: every trial runs to its end."""
    if not job.labels:
        return Workload(trials=0, epochs=0.0, refinements=0, refinement_epochs=0.0)
    limits, whole = search_limits(job), job.training.epochs
    # Computed without a loop over the trials: a job may ask for any number of them.
    trials = limits.trials if limits.epochs is None else min(limits.trials, int(limits.epochs / whole))
    return _with_refinement(job, trials, trials * whole)
