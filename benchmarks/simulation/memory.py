"""The part of `autoslim.store.Store` that a coordinator uses, in memory: a simulated search is never resumed."""

from __future__ import annotations

import dataclasses

from autoslim.core.recipe import Recipe
from autoslim.core.result import EpochReport, Origin, TrialResult, TrialState
from autoslim.errors import JobError
from autoslim.store import StoredTrial


@dataclasses.dataclass
class _Kept:
    trial: StoredTrial
    epochs: dict[tuple[float, str], EpochReport]


class MemoryStore:
    """The store of one job; `job_id` is ignored. The methods are as in `Store`."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}
        self._results: list[TrialResult] = []

    def add_trial(self, job_id: str, number: int, recipe: Recipe, *, origin: Origin, target: str) -> None:
        if number != len(self._kept):
            raise JobError(f"trial {number} does not follow trial {len(self._kept) - 1}")
        result = TrialResult(number=number, recipe=recipe, origin=origin, state=TrialState.RUNNING)
        stored = StoredTrial(result=result, target=target, attempt=1, started_at="", ended_at=None)
        self._kept[number] = _Kept(stored, {})
        self._results.append(result)

    def finish_trial(self, job_id: str, result: TrialResult) -> None:
        kept = self._kept[result.number]
        if kept.trial.result.state is not TrialState.RUNNING:
            raise JobError(f"trial {result.number} is {kept.trial.result.state} already, with another result")
        kept.trial = dataclasses.replace(kept.trial, result=result, ended_at="")
        self._results[result.number] = result

    def add_ended_trial(self, job_id: str, result: TrialResult, *, target: str) -> None:
        self.add_trial(job_id, result.number, result.recipe, origin=result.origin, target=target)
        self.finish_trial(job_id, result)

    def unfinished(self, job_id: str) -> list[StoredTrial]:
        return []

    def trials(self, job_id: str) -> list[TrialResult]:
        return list(self._results)

    def stored_trials(self, job_id: str) -> list[StoredTrial]:
        return [self._kept[number].trial for number in sorted(self._kept)]

    def report(self, job_id: str, number: int, report: EpochReport) -> None:
        self._kept[number].epochs[round(report.epoch, 6), report.phase] = report

    def epochs(self, job_id: str, number: int) -> list[EpochReport]:
        return list(self._kept[number].epochs.values())
