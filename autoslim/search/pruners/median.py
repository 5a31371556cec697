"""`MedianPruner`: stops a trial that is below the median of the finished trials of its FLOPs, at as many epochs.

The rule is that of Google Vizier (Golovin et al., 2017) and of Optuna's `MedianPruner`, with trials compared within a band of FLOPs.
"""

from __future__ import annotations

import math
import statistics

from autoslim.core.result import EpochReport, Origin, Phase, TrialResult
from autoslim.core.score import ACCURACY, Score
from autoslim.search.pruners.base import MIN_SAVED_EPOCHS, SAME_EPOCH, after_epochs
from autoslim.search.pruners.rung import BAND

MIN_FINISHED = 3
"""Finished trials in its band from which a trial is compared: the median of fewer is one lucky or unlucky trial."""


class MedianPruner:
    """Compares after every epoch of fine-tuning, from the first on."""

    def __init__(self, *, epochs: float, chance: float, score: Score = ACCURACY) -> None:
        self.epochs, self._score = epochs, score
        self._curves: dict[int, dict[float, float]] = {}
        """Accuracy by epoch, by trial."""
        self._finished: dict[int, int] = {}
        """FLOPs of the finished trials."""

    def observe(self, trial: TrialResult, report: EpochReport) -> None:
        accuracy = report.metrics.get("accuracy")
        if report.phase != Phase.FINETUNE or accuracy is None or not math.isfinite(accuracy):
            return
        self._curves.setdefault(trial.number, {})[round(report.epoch, 6)] = accuracy
        if report.epoch >= self.epochs - SAME_EPOCH:
            self._finished[trial.number] = trial.recipe.budget

    def should_prune(self, trial: TrialResult, report: EpochReport) -> str | None:
        self.observe(trial, report)
        accuracy = report.metrics.get("accuracy")
        if accuracy is None or not math.isfinite(accuracy) or not self._is_compared(trial, report):
            return None
        flops = trial.recipe.budget
        peers = [n for n, other in self._finished.items() if n != trial.number and abs(other - flops) <= BAND * flops]
        known = [self._accuracy_at(number, report.epoch) for number in peers]
        if len(known) < MIN_FINISHED or accuracy >= (median := statistics.median(known)):
            return None
        return (
            f"{self._score.name} {self._score.text(accuracy)} {after_epochs(report.epoch)} is below {self._score.text(median)}, the "
            f"median of {len(known)} finished trials within {BAND:.0%} of its FLOPs"
        )

    def expected_epochs(self, position: int) -> float:
        # A finished trial was above the median of those before it, so the median rises: above that of f finished trials, which
        # began with 3, the next one is with a probability of about 3 / 2f. Then f grows as the root of 3 positions, and 3 / 2f
        # becomes half the root of 3 / position.
        if position <= MIN_FINISHED:
            return self.epochs
        continuing = 0.5 * math.sqrt(MIN_FINISHED / position)
        return continuing * self.epochs + (1 - continuing) * min(1.0, self.epochs)

    def _is_compared(self, trial: TrialResult, report: EpochReport) -> bool:
        early = report.phase != Phase.FINETUNE or report.epoch < 1 - SAME_EPOCH
        return not early and trial.origin != Origin.CONTROL and self.epochs - report.epoch >= MIN_SAVED_EPOCHS

    def _accuracy_at(self, number: int, epoch: float) -> float:
        """A trial's accuracy at its last report up to `epoch`, or at its first one where that came later."""
        curve = self._curves[number]
        before = [at for at in curve if at <= epoch + SAME_EPOCH]
        return curve[max(before)] if before else curve[min(curve)]
