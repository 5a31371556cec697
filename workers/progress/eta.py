"""`EtaEstimator`: how long a search is still going to take, from what its trials have taken so far, early stops included."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence

from autoslim.core.job import SearchJob
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.search import search_limits
from autoslim.search.stopping import LEAST, spent_epochs

_RECENT = 16
"""The pace is that of so many last trials: the first ones have nobody to be stopped by."""


class EtaEstimator:
    """`seconds_left` is None until a trial has ended in this attempt."""

    def __init__(self, job: SearchJob, *, slots: int, now: Callable[[], float] = time.monotonic) -> None:
        self._job, self._limits, self._slots, self._now = job, search_limits(job), slots, now
        self._began = now()
        self._ends: collections.deque[float] = collections.deque([self._began], maxlen=_RECENT + 1)
        self._has_begun = False
        self._earlier = 0.0
        self._finals: int | None = None
        self._final_began = 0.0

    def already(self, results: Sequence[TrialResult]) -> None:
        """Trials of an earlier attempt."""
        self._earlier = sum(result.seconds or 0.0 for result in results if result.duplicate_of is None) / self._slots

    def begin_trial(self) -> None:
        """The first one begins the time of the trials; the dense model was adapted before."""
        if not self._has_begun:
            self._has_begun, self._began = True, self._now()

    def end_trial(self) -> None:
        self._ends.append(self._now())

    def begin_finals(self, count: int) -> None:
        self._finals, self._final_began = count, self._now()

    def seconds_left(self, results: Sequence[TrialResult]) -> float | None:
        """`results` are the ended trials."""
        results = [result for result in results if result.origin != Origin.REUSED]
        if self._finals:
            return self._final_left(results, self._finals)
        if len(self._ends) < 2:
            return None
        # Not by the ends themselves: the first ones come late, because workers start, and then several at once.
        recent = results[-_RECENT:]
        throughput = sum(result.seconds or 0.0 for result in recent) / len(recent) / self._slots
        left = throughput * self._trials_left(results)
        if self._limits.seconds is not None:
            left = min(left, self._limits.seconds - self._earlier - (self._now() - self._began))
        left = max(left, 0.0)
        if self._finals == 0:  # nothing is tuned longer, but the last trials still run
            return left
        search = sum(result.seconds or 0.0 for result in results if result.duplicate_of is None) / self._slots + left
        return left + (search * self._final_share() if self._finals_follow(results) else 0.0)

    def _trials_left(self, results: Sequence[TrialResult]) -> float:
        left: float = self._limits.trials - len(results)
        spent = spent_epochs(results)
        if self._limits.epochs is not None and spent > 0:
            left = min(left, (self._limits.epochs - spent) / (spent / len(results)))
        return max(left, 0.0)

    def _final_share(self) -> float:
        """The wall time of the end, by that of the search: it has fewer trials, which may leave slots empty."""
        share, runs = self._job.final_share, len(self._job.budgets) * self._job.final_seeds
        return share / (1 - share) * self._slots / min(self._slots, runs)

    def _finals_follow(self, results: Sequence[TrialResult]) -> bool:
        share, runs = self._job.final_share, len(self._job.budgets) * self._job.final_seeds
        trained = [result for result in results if result.epochs]
        if not trained:
            return share > 0
        total = spent_epochs(trained) / len(results) * (len(results) + self._trials_left(results))
        return total * share / (1 - share) / runs >= LEAST * self._job.training.epochs

    def _final_left(self, results: Sequence[TrialResult], finals: int) -> float | None:
        """By the epochs of the final trials that have ended, at the pace of all trials."""
        left = finals - sum(result.origin == Origin.REFINEMENT for result in results)
        took = [(result.seconds or 0.0, result.epochs or 0.0) for result in results if result.state is TrialState.COMPLETE]
        seconds, epochs = (sum(column) for column in zip(*took, strict=True)) if took else (0.0, 0.0)
        if left <= 0 or epochs == 0:
            return 0.0 if left <= 0 else None
        each = (
            spent_epochs([r for r in results if r.origin != Origin.REFINEMENT])
            * self._job.final_share
            / (1 - self._job.final_share)
            / finals
        )
        whole = left * each * seconds / epochs / min(self._slots, finals)
        return max(0.0, whole - (self._now() - max(self._final_began, self._ends[-1])))
