"""When a search proposes no further trials: after a number of trials, epochs, a time, or when its Pareto front has stopped growing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autoslim.core.figures import format_epochs
from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.core.result import ParetoFront, TrialResult, TrialState

MIN_REFINEMENT_FACTOR = 1.5
"""A recipe is refined only where it gets at least 1.5 times the epochs that it had: with fewer, the refinement would repeat trials of the
search rather than improve on them."""
MIN_HYPERVOLUME_GROWTH = 1e-3
"""The front has grown when its hypervolume has, by at least this share of the whole area: about one point of accuracy over a
tenth of the dense model's FLOPs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoppingLimits(Record):
    """`seconds` limits the wall time of the trials, `epochs` those of all trials together, `plateau` the trials in a row without growth of
    the hypervolume. None is no limit.
    """

    trials: int
    seconds: float | None = None
    epochs: float | None = None
    plateau: int | None = None


def search_limits(job: SearchJob) -> StoppingLimits:
    """The part of the job's limits that the search itself may use; the rest is for the refinement."""
    own = 1 - job.final_share
    each = 0.0 if job.max_epochs is None else job.max_epochs * job.final_share / len(job.labels) / job.final_seeds
    # Where the share is too small for any refinement, the search uses it.
    epochs_own = own if each >= MIN_REFINEMENT_FACTOR * job.training.epochs else 1.0
    return StoppingLimits(
        trials=job.trials,
        seconds=None if job.max_seconds is None else own * job.max_seconds,
        epochs=None if job.max_epochs is None else epochs_own * job.max_epochs,
        plateau=job.plateau,
    )


def spent_epochs(results: Sequence[TrialResult]) -> float:
    """Epochs that ended trials were trained for; a duplicate was not trained."""
    return sum(result.epochs or 0.0 for result in results if result.duplicate_of is None)


def stop_reason(
    limits: StoppingLimits, results: Sequence[TrialResult], *, a_trial: float, seconds: float, dense_flops: int, chance: float
) -> str | None:
    """Why no further trial begins; None where one does.

    `results` are all trials so far in the order of their numbers, `a_trial` is a trial's epochs, `seconds` the wall time so far.
    """
    if len(results) >= limits.trials:
        return f"{limits.trials} trials"
    running = sum(result.state is TrialState.RUNNING for result in results)
    spent = spent_epochs(results)
    # Running trials count with all their epochs, although some will be stopped: the limit is never exceeded.
    if limits.epochs is not None and spent + (running + 1) * a_trial > limits.epochs:
        return f"{format_epochs(spent)} epochs are spent, and another trial could exceed the {limits.epochs:g} that are allowed"
    # A trial that could not be finished in time would be wasted.
    if limits.seconds is not None and seconds + _average_seconds(results) > limits.seconds:
        return f"the time is up for another trial: {seconds:.0f} of {limits.seconds:.0f} seconds"
    if limits.plateau is not None and has_plateaued(results, limits.plateau, dense_flops=dense_flops, chance=chance):
        return f"the hypervolume has not grown by {MIN_HYPERVOLUME_GROWTH:.1%} in {limits.plateau} trials"
    return None


def _average_seconds(results: Sequence[TrialResult]) -> float:
    """Of complete trials only: the next one may be one of those."""
    took = [result.seconds or 0.0 for result in results if result.state is TrialState.COMPLETE and result.duplicate_of is None]
    return sum(took) / len(took) if took else 0.0


def has_plateaued(results: Sequence[TrialResult], trials: int, *, dense_flops: int, chance: float) -> bool:
    """Whether the last `trials` that ended have added less than `MIN_HYPERVOLUME_GROWTH` to the front's hypervolume."""
    ended = [result for result in results if result.state is not TrialState.RUNNING]
    if len(ended) <= trials:
        return False
    now, before = (
        ParetoFront.of(some).hypervolume(dense_flops=dense_flops, chance=chance) for some in (ended, ended[: len(ended) - trials])
    )
    # A front without area has not begun to grow.
    return now - before < MIN_HYPERVOLUME_GROWTH and before > 0
