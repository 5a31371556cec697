"""`SearchCallback`: what follows a search, as the console, Ray's dashboard, the metrics and the service's events do.

Nothing heavy is imported here: the service's driver needs it before the packages of a search are loaded.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence

from autoslim.core.accuracy_goal import Floor
from autoslim.core.job import SearchJob
from autoslim.core.result import BaseFacts, EpochReport, TrialResult
from autoslim.core.selection import best_within_budgets


class SearchStage(enum.StrEnum):
    """What follows the preparation: the trials, and then the models that are delivered."""

    SEARCHING = "searching"
    FINALIZING = "finalizing"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchInfo:
    """What is known before the first trial. `budgets` are multiply-accumulates by label, `slots` is how many trials run side by side.

    `results` are all trials so far: those of earlier attempts, ended or not, and those reused from earlier searches. `seconds_left`
    estimates the wall time to the end of the job, None where nothing is known yet. `spent` says how much of the job's limits is spent, and
    `unspent` in fewer words what is left of them; both are empty without any.
    """

    job: SearchJob
    budgets: Mapping[str, int]
    base: BaseFacts
    slots: int = 1
    results: Sequence[TrialResult] = ()
    seconds_left: Callable[[], float | None] = lambda: None
    spent: Callable[[], str] = lambda: ""
    unspent: Callable[[], str] = lambda: ""

    @property
    def floor(self) -> Floor | None:
        """The accuracy that the job holds on to, if any."""
        return self.job.floor(self.base.dense_accuracy)

    def best(self, results: Iterable[TrialResult]) -> dict[str, TrialResult]:
        """The trial that would be delivered now, by the label of each budget and of the goal; one without any is left out."""
        return best_within_budgets(results, self.budgets, self.job.limits, self.floor)


class SearchCallback:
    """Does nothing; override what is of interest. Every method runs in the driver, which waits for it, and an error that one raises ends
    the search.

    The order is `on_attempt_start`, `on_search_start`, the trials' own, several at a time, and `on_search_end` before the trials that
    refine the best recipes. `target` is the label of the budget or of the goal that the trial's recipe is for, or `Target.FREE`.
    """

    def on_attempt_start(self, results: Sequence[TrialResult]) -> None:
        """Before anything else; `results` are the trials of earlier attempts, ended or not."""

    def on_stage_start(self, stage: SearchStage) -> None:
        """The first trials are about to start, or the chosen models are about to be evaluated and exported."""

    def on_message(self, text: str) -> None:
        """What happens outside of trials: the dense model's epochs, measurements, exports."""

    def on_wait(self, reason: str | None) -> None:
        """The trials stand still, because of what the cluster lacks; None when they continue."""

    def on_search_start(self, search: SearchInfo) -> None:
        """Once in each attempt, before its first trial."""

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        """`result` has the trial's number and its recipe; nothing is measured yet."""

    def on_trial_opening(self, result: TrialResult, line: str) -> None:
        """Its node does not have the images yet, and brings or prepares them; `line` says how far that is, a minute after the last one."""

    def on_epoch_end(self, result: TrialResult, report: EpochReport) -> None:
        """After each epoch of each phase, and straight after pruning. `report.metrics` has what was measured, such as `loss`, `accuracy`
        and `images_per_second`; `result` is as at the trial's start."""

    def on_trial_lost(self, result: TrialResult, reason: str) -> None:
        """The trial has lost its worker, or had to leave its node. It goes on from its checkpoint when there is a place, without another
        `on_trial_start`."""

    def on_slots_change(self, slots: int) -> None:
        """From now on `slots` trials run side by side: nodes have joined the cluster, or left it."""

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        """`result` has the state, the accuracy, the FLOPs and all else that was measured, or the error. Also for a trial that needs no
        training, and that never started."""

    def on_search_end(self, reason: str, refinements: int) -> None:
        """No further recipe is proposed; `refinements` trials of the best recipes follow."""


class CallbackList(SearchCallback):
    """Passes each event on to every callback, in their order."""

    def __init__(self, callbacks: Sequence[SearchCallback]) -> None:
        self._callbacks = tuple(callbacks)

    def on_attempt_start(self, results: Sequence[TrialResult]) -> None:
        for callback in self._callbacks:
            callback.on_attempt_start(results)

    def on_stage_start(self, stage: SearchStage) -> None:
        for callback in self._callbacks:
            callback.on_stage_start(stage)

    def on_message(self, text: str) -> None:
        for callback in self._callbacks:
            callback.on_message(text)

    def on_wait(self, reason: str | None) -> None:
        for callback in self._callbacks:
            callback.on_wait(reason)

    def on_search_start(self, search: SearchInfo) -> None:
        for callback in self._callbacks:
            callback.on_search_start(search)

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        for callback in self._callbacks:
            callback.on_trial_start(result, target)

    def on_trial_opening(self, result: TrialResult, line: str) -> None:
        for callback in self._callbacks:
            callback.on_trial_opening(result, line)

    def on_epoch_end(self, result: TrialResult, report: EpochReport) -> None:
        for callback in self._callbacks:
            callback.on_epoch_end(result, report)

    def on_trial_lost(self, result: TrialResult, reason: str) -> None:
        for callback in self._callbacks:
            callback.on_trial_lost(result, reason)

    def on_slots_change(self, slots: int) -> None:
        for callback in self._callbacks:
            callback.on_slots_change(slots)

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        for callback in self._callbacks:
            callback.on_trial_end(result, target)

    def on_search_end(self, reason: str, refinements: int) -> None:
        for callback in self._callbacks:
            callback.on_search_end(reason, refinements)
