"""`MedianPruner`: a trial is stopped when it is below the median of the finished trials of its FLOPs, at as many epochs."""

from __future__ import annotations

import math
import statistics

from autoslim.core.result import EpochReport, Origin, Phase, TrialResult
from autoslim.search.pruners.rung import BAND

_LEAST = 3
"""Finished trials in its band that a trial is held against."""
_WORTH = 0.5
_SAME = 1e-6


class MedianPruner:
    """Judges after every epoch of tuning but the last half one. Controls are measured to their end."""

    def __init__(self, *, epochs: float) -> None:
        self.epochs = epochs
        self._curves: dict[int, dict[float, float]] = {}
        self._finished: dict[int, int] = {}

    def observe(self, trial: TrialResult, report: EpochReport) -> None:
        accuracy = report.metrics.get("accuracy")
        if report.phase != Phase.FINETUNE or accuracy is None or not math.isfinite(accuracy):
            return
        self._curves.setdefault(trial.number, {})[round(report.epoch, 6)] = accuracy
        if report.epoch >= self.epochs - _SAME:
            self._finished[trial.number] = trial.recipe.budget

    def should_prune(self, trial: TrialResult, report: EpochReport) -> str | None:
        self.observe(trial, report)
        accuracy = report.metrics.get("accuracy")
        judged = report.phase == Phase.FINETUNE and accuracy is not None and report.epoch >= 1 - _SAME
        if not judged or trial.origin == Origin.CONTROL or self.epochs - report.epoch < _WORTH:
            return None
        assert accuracy is not None
        flops = trial.recipe.budget
        peers = [n for n, other in self._finished.items() if n != trial.number and abs(other - flops) <= BAND * flops]
        known = [value for value in (self._at(number, report.epoch) for number in peers) if value is not None]
        if len(known) < _LEAST or accuracy >= (median := statistics.median(known)):
            return None
        return (
            f"accuracy {accuracy:.1%} after {report.epoch:.3g} epochs is below {median:.1%}, the median of {len(known)} finished "
            f"trials within {BAND:.0%} of its FLOPs"
        )

    def _at(self, number: int, epoch: float) -> float | None:
        """A trial's accuracy at its last report up to `epoch`; its first where that came later."""
        curve = self._curves[number]
        before = [at for at in curve if at <= epoch + _SAME]
        return curve[max(before)] if before else curve[min(curve)]
