"""`EtaEstimator`: how long a search will still take, from what its trials have taken so far, early stops included."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autoslim.core.job import SearchJob
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.search import search_limits
from autoslim.search.stopping import MIN_REFINEMENT_FACTOR, spent_epochs
from workers.progress.callbacks import SearchCallback
from workers.progress.cost import finalize_seconds

# The throughput is that of the last trials: the first ones are stopped by none, because nothing can be compared with them yet.
_RECENT = 16


class EtaEstimator(SearchCallback):
    """The first of the callbacks, so that the others find the time left after the event that they hear of."""

    def __init__(
        self,
        job: SearchJob,
        *,
        slots: int,
        results: Sequence[TrialResult] = (),
        now: Callable[[], float] = time.monotonic,
        most: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`results` are the trials of earlier attempts, `slots` is how many trials run side by side, `now` a clock in seconds. `most` is
        when trials are stopped, in seconds from now, if ever."""
        self._most = most
        self._job, self._limits, self._slots, self._now = job, search_limits(job), slots, now
        self._results = [r for r in results if r.state is not TrialState.RUNNING and r.origin is not Origin.REUSED]
        self._earlier = self._spent_seconds()
        self._began, self._has_started = now(), False
        self._last_end: float | None = None
        self._refinements: int | None = None
        self._refinement_began = 0.0

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        # The clock starts with the first trial: the dense model was adapted before, and no limit counts that.
        if not self._has_started:
            self._began, self._has_started = self._now(), True

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        self._results.append(result)
        self._last_end = self._now()

    def on_slots_change(self, slots: int) -> None:
        self._slots = slots

    def on_search_end(self, reason: str, refinements: int) -> None:
        self._refinements, self._refinement_began = refinements, self._now()

    def seconds_to_end(self) -> float | None:
        """`seconds_left`, and the time that exporting and evaluating the selected models will take; None until a trial has ended."""
        left = self.seconds_left()
        return None if left is None else left + finalize_seconds(self._job)

    def seconds_left(self) -> float | None:
        """Wall time of the trials that are left, those of the refinement included."""
        left, most = self._unlimited(), self._most()
        return left if left is None or most is None else min(left, most)

    def _unlimited(self) -> float | None:
        if self._refinements:
            return self._refinement_left(self._refinements)
        if self._last_end is None:
            return None
        # By the trials' own seconds and not by the distance of their ends: the first ends come late, because workers start.
        recent = self._results[-_RECENT:]
        each = sum(result.seconds or 0.0 for result in recent) / len(recent) / self._slots
        left = each * self._trials_left()
        if self._limits.seconds is not None:
            left = min(left, self._limits.seconds - self._earlier - (self._now() - self._began))
        left = max(left, 0.0)
        # Nothing is refined, but the last trials still run.
        if self._refinements == 0:
            return left
        search = self._spent_seconds() + left
        return left + (search * self._refinement_share() if self._refinement_follows() else 0.0)

    def _spent_seconds(self) -> float:
        return sum(result.seconds or 0.0 for result in self._results if result.duplicate_of is None) / self._slots

    def _trials_left(self) -> float:
        """By the number of trials, or by the epochs that are left at the mean epochs of a trial, whichever is less."""
        left: float = self._limits.trials - len(self._results)
        spent = spent_epochs(self._results)
        if self._limits.epochs is not None and spent > 0:
            left = min(left, (self._limits.epochs - spent) / (spent / len(self._results)))
        return max(left, 0.0)

    def _refinement_share(self) -> float:
        """Wall time of the refinement over that of the search: it has fewer trials, which may leave slots empty."""
        share, runs = self._job.final_share, len(self._job.labels) * self._job.final_seeds
        return share / (1 - share) * self._slots / min(self._slots, runs)

    def _refinement_follows(self) -> bool:
        """Whether the share that is kept for it is enough for every recipe, at the epochs that the search is going to spend."""
        share, runs = self._job.final_share, len(self._job.labels) * self._job.final_seeds
        trained = [result for result in self._results if result.epochs]
        if not trained:
            return share > 0
        total = spent_epochs(trained) / len(self._results) * (len(self._results) + self._trials_left())
        return total * share / (1 - share) / runs >= MIN_REFINEMENT_FACTOR * self._job.training.epochs

    def _refinement_left(self, refinements: int) -> float | None:
        """The epochs that the refinement has left, at the seconds of an epoch in all complete trials."""
        left = refinements - sum(result.origin is Origin.REFINEMENT for result in self._results)
        if left <= 0:
            return 0.0
        complete = [result for result in self._results if result.state is TrialState.COMPLETE]
        epochs = sum(result.epochs or 0.0 for result in complete)
        if epochs == 0:
            return None
        seconds = sum(result.seconds or 0.0 for result in complete)
        searched = spent_epochs([result for result in self._results if result.origin is not Origin.REFINEMENT])
        each = searched * self._job.final_share / (1 - self._job.final_share) / refinements
        whole = left * each * seconds / epochs / min(self._slots, refinements)
        # What runs now has run since the refinement began, or since the last trial ended.
        since = max(self._refinement_began, self._last_end or 0.0)
        return max(0.0, whole - (self._now() - since))
