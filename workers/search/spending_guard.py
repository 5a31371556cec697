"""`SpendingGuard`: a search never passes its `max_hours` and `max_cost`.

What is spent is counted over all attempts: the wall time from the store, which every report brings up to date, and the devices' time of all
trials. What handing the models over takes is kept back. No trial begins that is expected to end later than that, and trials that still run
when it comes are stopped; their checkpoints stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autoslim.core.duration import format_duration
from autoslim.core.job import SearchJob
from autoslim.core.result import ADAPTING, EpochReport, SharedCost, TrialResult, TrialState
from autoslim.errors import JobError, RequestError
from autoslim.search.spending import limit_flags, spending_limit
from autoslim.store import Store
from workers.progress.callbacks import SearchCallback, SearchInfo
from workers.progress.cost import devices_of, finalize_seconds, spent_seconds
from workers.search.prepare import PreparedSearch

STOP_SECONDS = 20.0
"""Trials that are told to stop may end the step that they are in; then they are killed."""
_HANDOVER_MARGIN = 1.25
"""What handing over takes is an estimate."""
_SAVE_SECONDS = 60.0
"""A killed driver loses at most so much of the wall time that it has spent, where nothing is reported meanwhile."""
_TEACHER = 4 / 3
"""Seconds of an epoch of a trial by those of an epoch of the dense model, which has no teacher to run forwards."""


def reserved_seconds(job: SearchJob, evaluating: float) -> float:
    """Seconds of a limit that are kept for stopping the trials and handing the models over; `evaluating` are those of seeing the images."""
    return STOP_SECONDS + _HANDOVER_MARGIN * finalize_seconds(job) + evaluating


class SpendingGuard(SearchCallback):
    """The wall time of this attempt starts at `began`, on `clock`, in seconds. `handover_images` is how many images are seen when the
    models are handed over, as a share of the training images. `ended` is why no further trial begins, once that is so.

    Raises:
        RequestError: handing the models over alone takes more than the limit.
    """

    def __init__(
        self,
        job: SearchJob,
        store: Store,
        *,
        began: float,
        handover_images: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job, self.limit, self.ended = job, spending_limit(job), ""
        self._store, self._clock, self._began, self._handover_images = store, clock, began, handover_images
        stored = store.job(job.id)
        self._earlier_seconds, self._saved_at = stored.seconds, began
        self._devices = devices_of(job)[1]
        self._results: dict[int, TrialResult] = {}
        self._running: dict[int, tuple[float, float]] = {}
        self._own_busy = self._earlier_busy = 0.0
        self._base_pace = 0.0
        self._seconds_before = self._busy_before = 0.0
        if self.limit.reached(self.reserve(), self.reserve() * self._devices):
            raise RequestError(
                f"{limit_flags(job)} is too little: handing the models over alone takes about {format_duration(self.reserve())}; allowed: "
                "more, or --speed none"
            )

    # What happens

    def on_search_start(self, search: SearchInfo) -> None:
        stored = self._store.job(self.job.id)
        self._earlier_busy = spent_seconds(self._store, stored)
        self._base_pace = _pace_of_base(stored.shared)
        self._results = {result.number: result for result in search.results if result.state is not TrialState.RUNNING}
        self._seconds_before, self._busy_before = self.seconds(), self.device_seconds()
        self.save()

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        self._running[result.number] = self._clock(), result.recipe.training.epochs

    def on_epoch_end(self, result: TrialResult, report: EpochReport) -> None:
        self.save()

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        self._results[result.number] = result
        if result.number in self._running:
            self._own_busy += self._clock() - self._running.pop(result.number)[0]
        self.save()

    def on_search_end(self, reason: str, refinements: int) -> None:
        self.ended = reason

    # What is spent

    def seconds(self) -> float:
        """Wall time of all attempts up to now."""
        return self._earlier_seconds + self._clock() - self._began

    def device_seconds(self) -> float:
        """Of all trials, of the dense models and of earlier attempts' handing over; a running trial counts from its start, until it reports
        its own seconds."""
        now = self._clock()
        return self._devices * (self._earlier_busy + self._own_busy + sum(now - began for began, _ in self._running.values()))

    def save(self) -> None:
        """So that a later attempt knows the wall time of this one."""
        self._saved_at = self._clock()
        self._store.set_seconds(self.job.id, self.seconds())

    # What is left

    def reserve(self) -> float:
        """Seconds that are kept for stopping the trials and handing the models over."""
        return reserved_seconds(self.job, self._handover_images * self._pace())

    def seconds_left(self) -> float | None:
        """Wall time until trials are stopped; None without such a limit."""
        return None if self.limit.seconds is None else max(0.0, self.limit.seconds - self.reserve() - self.seconds())

    def refusal(self, epochs: float, *, share: float = 1.0) -> str | None:
        """Why a trial of so many epochs does not begin; None where it may. `share` is how much of what was left before the first trial
        of this attempt it may use."""
        if not self.limit.given:
            return None
        pace, reserve = self._pace(), self.reserve()
        takes, now = pace * epochs, self._clock()
        # A trial that runs takes what is left of its expected time, and one that takes longer than expected no more.
        rest = sum(max(0.0, pace * whole - (now - began)) for began, whole in self._running.values())
        if self.limit.seconds is not None and self.seconds() + takes > _part(
            share, self._seconds_before, self.limit.seconds - reserve
        ):
            return self._told(f"another trial takes about {format_duration(takes)}")
        busy = self.device_seconds() + self._devices * (takes + rest)
        most = self.limit.device_seconds
        if most is not None and busy > _part(share, self._busy_before, most - self._devices * reserve):
            return self._told(f"another trial costs about {self._money(self._devices * takes):.2f}")
        return None

    def is_up(self) -> bool:
        """Whether what runs has to be stopped now. Called every second or so: it also keeps the stored wall time fresh."""
        if self._clock() - self._saved_at > _SAVE_SECONDS:
            self.save()
        reserve = self.reserve()
        return self.limit.reached(self.seconds() + reserve, self.device_seconds() + self._devices * reserve)

    def check(self) -> None:
        """Raises JobError where the limit comes before the first trial, while a dense model is adapted."""
        self.save()
        # No trial runs, so that all devices' time is that of one place.
        busy = self._devices * (self.seconds() if self._store.trials(self.job.id) == [] else 0.0)
        if self.limit.reached(self.seconds() + self.reserve(), busy + self._devices * self.reserve()):
            raise JobError(
                f"{limit_flags(self.job)}: the limit comes while the dense model is adapted, and nothing can be delivered; its checkpoint "
                "is kept, and --resume with a higher limit goes on"
            )

    # In words

    def describe(self) -> str:
        """`25m12s of 2h00m and 3.10 of 20 in money spent`; empty without a limit."""
        parts = []
        if self.job.max_hours is not None:
            parts.append(f"{format_duration(self.seconds())} of {format_duration(3600 * self.job.max_hours)}")
        if self.job.max_cost is not None:
            parts.append(f"{self._money(self.device_seconds()):.2f} of {self.job.max_cost:g} in money")
        return f"{' and '.join(parts)} spent" if parts else ""

    def unspent(self) -> str:
        """`1h34m48s, 16.90 in money unspent`; empty without a limit."""
        parts = []
        if self.job.max_hours is not None:
            parts.append(format_duration(max(0.0, 3600 * self.job.max_hours - self.seconds())))
        if self.job.max_cost is not None:
            parts.append(f"{max(0.0, self.job.max_cost - self._money(self.device_seconds())):.2f} in money")
        return f"{', '.join(parts)} unspent" if parts else ""

    def announcement(self) -> str:
        """For the start of the search."""
        return f"{self.describe()}; {format_duration(self.reserve())} are kept for handing the models over"

    def _told(self, why: str) -> str:
        return f"{self.describe()}, {why}, and {format_duration(self.reserve())} are kept for handing the models over"

    def _money(self, device_seconds: float) -> float:
        return device_seconds / 3600 * (self.job.price_per_hour or 0.0)

    def _pace(self) -> float:
        """Seconds of an epoch: of complete trials, or else of the dense model; 0 where neither is known."""
        complete = [r for r in self._results.values() if r.state is TrialState.COMPLETE and r.duplicate_of is None and r.epochs]
        epochs = sum(result.epochs or 0.0 for result in complete)
        return sum(result.seconds or 0.0 for result in complete) / epochs if epochs else self._base_pace


def handover_images(prepared: PreparedSearch) -> float:
    """How many images are seen when the models are handed over, as a share of the training images: the test images by each model and its
    dense one, and for the goal's interval those of validation and test once more."""
    report, count = prepared.dataset.report, 2 * len(prepared.job.labels)
    goal = 0 if prepared.job.goal is None else 2 * (report.validation.images + report.test.images)
    return (count * report.test.images + goal) / max(report.train.images, 1)


def _part(share: float, low: float, high: float) -> float:
    return low + share * (high - low)


def _pace_of_base(shared: Sequence[SharedCost]) -> float:
    base = [cost for cost in shared if cost.method == ADAPTING and cost.epochs]
    return max((_TEACHER * cost.seconds / cost.epochs for cost in base), default=0.0)
