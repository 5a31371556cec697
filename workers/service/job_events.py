"""`JobEvents`: a search's progress as events in the queue, for clients of the service, and as JSON lines for log collectors."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from autoslim.core.result import EpochReport, TrialResult, TrialState
from autoslim.errors import LeaseLostError
from autoslim.store import Claim, Queue, QueueState
from workers.progress.best_trials import BestTrials, named
from workers.progress.callbacks import SearchCallback, SearchInfo, SearchStage
from workers.service.log_tee import LogTee

_STATES = {SearchStage.SEARCHING: QueueState.SEARCHING, SearchStage.FINALIZING: QueueState.FINALIZING}
_CURVES = ("accuracy", "loss", "images_per_second", "loader_wait")
"""The metrics of an epoch that its event has; the store has all of them."""


class JobEvents(SearchCallback):
    """`abandon` gets the reason, and ends the process, when another driver has taken the job over. `lines` are for log collectors."""

    def __init__(self, queue: Queue, claim: Claim, lines: LogTee, *, abandon: Callable[[str], None]) -> None:
        self._queue, self._claim, self._lines, self._abandon = queue, claim, lines, abandon
        self._search: SearchInfo | None = None
        self._best: BestTrials | None = None

    def on_attempt_start(self, results: Sequence[TrialResult]) -> None:
        ended = sum(result.state is not TrialState.RUNNING for result in results)
        if results:
            self._append("message", {"text": f"continues with {ended} trials that have ended"})

    def on_stage_start(self, stage: SearchStage) -> None:
        with self._lease_held():
            self._queue.transition(self._claim, _STATES[stage])
        self._print("state", {"state": _STATES[stage].value})

    def on_message(self, text: str) -> None:
        self._append("message", {"text": text})

    def on_wait(self, reason: str | None) -> None:
        with self._lease_held():
            self._queue.set_reason(self._claim, reason)

    def on_search_start(self, search: SearchInfo) -> None:
        self._search = search
        # What an earlier attempt has announced is not announced again.
        self._best = BestTrials(search, self._announced_best() if self._claim.attempt > 1 else None)
        self._append_best()

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        self._append("trial_began", {**named(result), "target": target, "origin": result.origin.value})

    def on_epoch_end(self, result: TrialResult, report: EpochReport) -> None:
        curves = {name: _finite(report.metrics[name]) for name in _CURVES if name in report.metrics}
        self._append("trial_reported", {**named(result), "epoch": report.epoch, "phase": report.phase.value, **curves})

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        data: dict[str, Any] = {**named(result), "target": target, "state": result.state.value}
        data |= {name: _finite(getattr(result, name)) for name in ("accuracy", "flops", "params", "seconds")}
        if result.duplicate_of is not None:
            data["duplicate_of"] = result.duplicate_of
        if result.error is not None:
            # The last line of a traceback is the error itself.
            data |= {"error_class": result.error_class, "error": result.error.strip().rpartition("\n")[2][:300]}
        if self._best is not None:
            self._best.add(result)
        data["seconds_left"] = None if self._search is None else self._search.seconds_left()
        # A trial that needed no work is no sign that the next driver would get further.
        self._append("trial_ended", data, progress=bool(result.epochs))
        self._append_best()

    def on_search_end(self, reason: str, refinements: int) -> None:
        more = f"; {refinements} trials refine the best recipes" if refinements else ""
        self._append("message", {"text": f"the search ends: {reason}{more}"})

    def _announced_best(self) -> dict[str, int]:
        """The trial of each budget's last `best` event."""
        announced: dict[str, int] = {}
        after = 0
        while page := self._queue.events(self._claim.id, after=after):
            announced |= {str(event.data["label"]): int(event.data["trial"]) for event in page if event.type == "best"}
            after = page[-1].seq
        return announced

    def _append_best(self) -> None:
        """An event for each budget whose best trial is another one now."""
        for data in self._best.news() if self._best is not None else ():
            self._append("best", data)

    def _append(self, type: str, data: dict[str, Any], *, progress: bool = False) -> None:
        with self._lease_held():
            self._queue.record(self._claim, type, {**data, "attempt": self._claim.attempt}, progress=progress)
        self._print(type, data)

    @contextlib.contextmanager
    def _lease_held(self) -> Iterator[None]:
        try:
            yield
        except LeaseLostError as error:
            # Raised into the search, it would be recorded as the end of the job.
            self._abandon(str(error))
            raise

    def _print(self, type: str, data: dict[str, Any]) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "job_id": self._claim.id, "attempt": self._claim.attempt, "event": type, **data}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()


def _finite(value: float | None) -> float | None:
    """None where it is not finite: JSON has no such number."""
    return None if value is None or not math.isfinite(value) else value
