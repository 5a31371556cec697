"""`Pruner`: which trials are stopped early, by name.

FLOPs are known before a trial's first step, so that only its accuracy is uncertain. Every rule compares a trial with trials of its own
FLOPs, or counts those that are no dearer and ahead of it: a cheap trial is never held against a dear one.

A scheduler is a pure function of the reports it has been given, in any process: its state is what the store holds. A search that is
resumed gives it the stored reports with `observe` and goes on with `should_prune`.
"""

from __future__ import annotations

from typing import Protocol

from autoslim.core.job import SCHEDULERS
from autoslim.core.result import EpochReport, TrialResult
from autoslim.errors import RequestError
from autoslim.search.pruners.halving import HalvingPruner
from autoslim.search.pruners.median import MedianPruner


class Pruner(Protocol):
    def observe(self, trial: TrialResult, report: EpochReport) -> None:
        """Remembers a report that was judged before."""

    def should_prune(self, trial: TrialResult, report: EpochReport) -> str | None:
        """Takes a report, and says why its trial is to be stopped; None where it goes on."""


class NopPruner:
    def observe(self, trial: TrialResult, report: EpochReport) -> None:
        pass

    def should_prune(self, trial: TrialResult, report: EpochReport) -> str | None:
        return None


def make_pruner(name: str, *, epochs: float, chance: float) -> Pruner:
    """`epochs` are a trial's; `chance` is the accuracy of the best constant guess. Raises RequestError for a name there is not."""
    if name == "halving":
        return HalvingPruner(epochs=epochs, chance=chance)
    if name == "median":
        return MedianPruner(epochs=epochs)
    if name == "none":
        return NopPruner()
    raise RequestError(f"there is no scheduler {name!r}; allowed: {', '.join(SCHEDULERS)}")
