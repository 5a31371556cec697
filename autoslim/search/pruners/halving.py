"""`HalvingPruner`: asynchronous successive halving between trials of the same FLOPs.

The rungs, in a trial's total epochs (a method's own training and its share of common work included):

- `cut`: accuracy straight after the cut, before any tuning. Methods leave very different models there (SiT's is at chance by
  construction), so only recipes of the same method are compared, only where one of them is well above chance, and only the last
  third is stopped.
- ceil(E/9) and ceil(E/3) of E epochs: the first report of the tuning at or past it. The best third of a FLOPs band goes on.

A rung exists only where stopping there saves at least half an epoch; a trial of one epoch is never stopped. Controls (drawn blindly)
are measured to their end, whatever they show. Nothing waits for others to arrive.
"""

from __future__ import annotations

import math

from autoslim.core.result import EpochReport, Origin, Phase, TrialResult
from autoslim.search.pruners.rung import Rung, RungEntry

FACTOR = 3
RUNGS = 2
_WORTH = 0.5
"""Epochs that stopping a trial must save."""
_CHANCES = 2
"""Accuracies after the cut say nothing while the best of them is below so many times that of guessing."""
_SAME = 1e-6


def rung_epochs(epochs: float, *, factor: int = FACTOR) -> tuple[int, ...]:
    """Total epochs of the rungs of a trial of `epochs`, lowest first."""
    levels = {math.ceil(epochs / factor**power) for power in range(1, RUNGS + 1)}
    return tuple(sorted(level for level in levels if level <= epochs - _WORTH))


class HalvingPruner:
    """One of these judges all trials of a job, which have the same `epochs`."""

    def __init__(self, *, epochs: float, chance: float, factor: int = FACTOR) -> None:
        self.epochs, self.chance, self.factor = epochs, chance, factor
        self._rungs = {level: Rung(keep=1 / factor, least=factor) for level in rung_epochs(epochs, factor=factor)}
        self._cuts: dict[str, Rung] = {}

    def observe(self, trial: TrialResult, report: EpochReport) -> None:
        self._enter(trial, report)

    def should_prune(self, trial: TrialResult, report: EpochReport) -> str | None:
        rung = self._enter(trial, report)
        if rung is None or trial.origin == Origin.CONTROL or self.epochs - report.epoch < _WORTH:
            return None
        if report.phase == Phase.PRUNE:
            if rung.best_near(trial.recipe.budget) < _CHANCES * self.chance:
                return None
            reason, where = rung.behind(trial.number), f"straight after the cut, among {trial.recipe.method} recipes"
        else:
            reason, where = rung.behind(trial.number), f"after {report.epoch:.3g} epochs"
        return None if reason is None else f"accuracy {report.metrics['accuracy']:.1%} {where}: {reason}"

    def _enter(self, trial: TrialResult, report: EpochReport) -> Rung | None:
        """The rung that this report is the trial's mark at; None where it is none's, or the trial has passed it already."""
        accuracy = report.metrics.get("accuracy")
        rung = self._rung_of(trial, report)
        if rung is None or accuracy is None or not math.isfinite(accuracy):
            return None
        before = rung.mark_of(trial.number)
        if before is not None and report.epoch > before.epoch + _SAME:
            return None
        rung.put(RungEntry(number=trial.number, flops=trial.recipe.budget, accuracy=accuracy, epoch=report.epoch))
        return rung

    def _rung_of(self, trial: TrialResult, report: EpochReport) -> Rung | None:
        if report.phase == Phase.PRUNE:
            least = self.factor
            return self._cuts.setdefault(trial.recipe.method, Rung(keep=1 - 1 / least, least=least)) if self._rungs else None
        if report.phase != Phase.FINETUNE:
            return None
        reached = [level for level in self._rungs if level <= report.epoch + _SAME]
        return self._rungs[max(reached)] if reached else None
