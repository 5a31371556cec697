"""Writes what happens in a search into the queue's events, for those who watch from elsewhere, and as JSON lines for log collectors."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from autoslim.core.result import EpochReport, TrialResult, TrialState
from autoslim.errors import LeaseLostError
from autoslim.store import Claim, Queue, QueueState
from workers.progress.callbacks import SearchStage, Watcher
from workers.service.log_streams import LogTee

_STATES = {SearchStage.SEARCHING: QueueState.SEARCHING, SearchStage.FINALIZING: QueueState.FINALIZING}
_CURVES = ("accuracy", "loss", "images_per_second", "loader_wait")
"""The metrics of an epoch that are told; all of them are in the store."""


class JobEvents(Watcher):
    """`abandon` is told why, and ends the process, when the job is another driver's by now. `lines` are for log collectors."""

    def __init__(self, queue: Queue, claim: Claim, lines: LogTee, *, abandon: Callable[[str], None]) -> None:
        self._queue, self._claim, self._lines, self._abandon = queue, claim, lines, abandon
        self._budgets: dict[str, int] = {}
        self._best: dict[str, float] = {}

    def begins(self, budgets: Mapping[str, int], earlier: Sequence[TrialResult]) -> None:
        self._budgets = dict(budgets)
        ended = [result for result in earlier if result.state is not TrialState.RUNNING]
        self._best = {label: best for label in budgets if (best := self._best_of(label, ended)) is not None}
        if earlier:
            self._tell("message", {"text": f"goes on with {len(ended)} trials that have ended"})

    def enters(self, stage: SearchStage) -> None:
        with self._held():
            self._queue.advance(self._claim, _STATES[stage])
        self._print("state", {"state": _STATES[stage].value})

    def says(self, text: str) -> None:
        self._tell("message", {"text": text})

    def trial_begins(self, result: TrialResult, target: str) -> None:
        self._tell("trial_began", {**_who(result), "target": target, "origin": result.origin.value})

    def trial_reports(self, result: TrialResult, report: EpochReport) -> None:
        curves = {name: _number(report.metrics[name]) for name in _CURVES if name in report.metrics}
        self._tell("trial_reported", {**_who(result), "epoch": report.epoch, "phase": report.phase.value, **curves})

    def trial_ends(self, result: TrialResult, target: str) -> None:
        told: dict[str, Any] = {**_who(result), "target": target, "state": result.state.value}
        told |= {name: _number(getattr(result, name)) for name in ("accuracy", "flops", "params", "seconds")}
        if result.duplicate_of is not None:
            told["duplicate_of"] = result.duplicate_of
        if result.error is not None:
            # The last line of a traceback is the error itself.
            told |= {"error_class": result.error_class, "error": result.error.strip().rpartition("\n")[2][:300]}
        # What took no work is no sign that the next driver would get on.
        self._tell("trial_ended", told, progress=bool(result.epochs))
        self._tell_best(result, target)

    def search_ends(self, reason: str, finals: int) -> None:
        more = f"; the best {finals} are tuned longer" if finals else ""
        self._tell("message", {"text": f"the search ends: {reason}{more}"})

    def _tell_best(self, result: TrialResult, target: str) -> None:
        best = self._best_of(target, [result])
        if target in self._budgets and best is not None and best > self._best.get(target, -1.0):
            self._best[target] = best
            self._tell("best", {"label": target, "accuracy": best, "flops": result.flops, **_who(result)})

    def _best_of(self, label: str, results: Sequence[TrialResult]) -> float | None:
        within = [
            result.accuracy
            for result in results
            if result.state is TrialState.COMPLETE
            and result.accuracy is not None
            and result.recipe.budget == self._budgets.get(label)
        ]
        return max(within, default=None)

    def _tell(self, type: str, data: dict[str, Any], *, progress: bool = False) -> None:
        with self._held():
            self._queue.record(self._claim, type, data, progress=progress)
        self._print(type, data)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        try:
            yield
        except LeaseLostError as error:
            # Raised into the search, it would be written down as the job's end.
            self._abandon(str(error))
            raise

    def _print(self, type: str, data: dict[str, Any]) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "job_id": self._claim.id, "attempt": self._claim.attempt, "event": type, **data}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()


def _who(result: TrialResult) -> dict[str, Any]:
    return {"trial": result.number, "method": result.recipe.method}


def _number(value: float | None) -> float | None:
    """JSON has no word for what is not a number."""
    return None if value is None or not math.isfinite(value) else value
