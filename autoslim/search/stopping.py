"""When a search has done enough: by trials, epochs, time, or because its front has stopped growing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.core.result import ParetoFront, TrialResult, TrialState

LEAST = 1.5
"""At the end a recipe is tuned again only where it gets so many times the epochs it had."""
GROWTH = 1e-3
"""A front has grown when its hypervolume has, by at least this share of the whole area."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoppingLimits(Record):
    """`seconds` is wall time of the trials, `epochs` what all trials may train in total, `plateau` so many trials without growth of the
    hypervolume; None is no limit.
    """

    trials: int
    seconds: float | None = None
    epochs: float | None = None
    plateau: int | None = None


def search_limits(job: SearchJob) -> StoppingLimits:
    """What the search itself may take of the job's limits; the rest is for tuning the best recipes longer (`search.final`)."""
    own = 1 - job.final_share
    each = 0.0 if job.max_epochs is None else job.max_epochs * job.final_share / len(job.budgets) / job.final_seeds
    # An end that is too short to be run at all leaves everything to the search.
    epochs_own = own if each >= LEAST * job.training.epochs else 1.0
    return StoppingLimits(
        trials=job.trials,
        seconds=None if job.max_seconds is None else own * job.max_seconds,
        epochs=None if job.max_epochs is None else epochs_own * job.max_epochs,
        plateau=job.plateau,
    )


def spent_epochs(results: Sequence[TrialResult]) -> float:
    """What ended trials have trained. An answered duplicate has trained nothing."""
    return sum(result.epochs or 0.0 for result in results if result.duplicate_of is None)


def stop_reason(
    limits: StoppingLimits, results: Sequence[TrialResult], *, a_trial: float, seconds: float, dense_flops: int, chance: float
) -> str | None:
    """Why no further trial begins; None where one does.

    `results` are all trials so far, in number order; `a_trial` is a trial's epochs, `seconds` the wall time so far. Running trials are
    counted with all their epochs, so that the limit is never passed, and a trial begins only while there is time for an average one.
    """
    if len(results) >= limits.trials:
        return f"{limits.trials} trials"
    running = sum(result.state is TrialState.RUNNING for result in results)
    spent = spent_epochs(results)
    if limits.epochs is not None and spent + (running + 1) * a_trial > limits.epochs:
        return f"{spent:.4g} epochs are spent, and another trial could pass the {limits.epochs:g} that are allowed"
    if limits.seconds is not None and seconds + _average_seconds(results) > limits.seconds:
        return f"the time is up for another trial: {seconds:.0f} of {limits.seconds:.0f} seconds"
    if limits.plateau is not None and has_plateaued(results, limits.plateau, dense_flops=dense_flops, chance=chance):
        return f"the hypervolume has not grown by {GROWTH:.1%} in {limits.plateau} trials"
    return None


def _average_seconds(results: Sequence[TrialResult]) -> float:
    """Of the trials that were trained to their end: the next one may be one of those."""
    took = [result.seconds or 0.0 for result in results if result.state is TrialState.COMPLETE and result.duplicate_of is None]
    return sum(took) / len(took) if took else 0.0


def has_plateaued(results: Sequence[TrialResult], trials: int, *, dense_flops: int, chance: float) -> bool:
    """Whether the last `trials` that ended have added nothing to the front."""
    ended = [result for result in results if result.state is not TrialState.RUNNING]
    if len(ended) <= trials:
        return False
    now, before = (
        ParetoFront.of(some).hypervolume(dense_flops=dense_flops, chance=chance) for some in (ended, ended[: len(ended) - trials])
    )
    return now - before < GROWTH and before > 0
