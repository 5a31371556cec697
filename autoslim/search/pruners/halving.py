"""`HalvingPruner`: asynchronous successive halving (ASHA, Li et al., 2020) between trials of the same FLOPs.

Rungs are at total epochs of a trial, which include the method's own training and its share of common work:

- Straight after pruning, before any fine-tuning. Methods leave very different models there (SiT's is at chance by construction). So only
  recipes of one method and model are compared, only where one of them is well above chance, and only the last third is stopped.
- ceil(E/9) and ceil(E/3) of E epochs: the first report of the fine-tuning at or after it. The best third of a FLOPs band continues.
"""

from __future__ import annotations

import math

from autoslim.core.result import EpochReport, Origin, Phase, TrialResult
from autoslim.core.score import ACCURACY, Score
from autoslim.search.pruners.base import MIN_SAVED_EPOCHS, SAME_EPOCH, after_epochs
from autoslim.search.pruners.rung import Rung, RungEntry

REDUCTION_FACTOR = 3
"""One trial in three continues past a rung, and each rung has three times the epochs of the one below it.
Hyperband (Li et al., 2018) advises 3 or 4."""
N_RUNGS = 2
"""With two rungs a bad trial costs a ninth of a good one. A third would be at 1/27 of the epochs, within the first epoch of most trials."""
MIN_LEAD_OVER_CHANCE = 2
"""Accuracies straight after pruning are compared only where the best of them is at least this many times that of guessing. Below, their
order is noise."""


def rung_epochs(epochs: float, *, factor: int = REDUCTION_FACTOR) -> tuple[int, ...]:
    """Total epochs of the rungs of a trial of `epochs`, lowest first. None where it would save too little; none at all for one epoch."""
    levels = {math.ceil(epochs / factor**power) for power in range(1, N_RUNGS + 1)}
    return tuple(sorted(level for level in levels if level <= epochs - MIN_SAVED_EPOCHS))


class HalvingPruner:
    """For the trials of one search, which all have the same `epochs`."""

    def __init__(self, *, epochs: float, chance: float, score: Score = ACCURACY, factor: int = REDUCTION_FACTOR) -> None:
        self.epochs, self.chance, self.factor, self._score = epochs, chance, factor, score
        self._rungs = {level: Rung(keep=1 / factor, min_entries=factor) for level in rung_epochs(epochs, factor=factor)}
        self._after_pruning: dict[str, Rung] = {}
        """By method, and by model where there are several."""

    def observe(self, trial: TrialResult, report: EpochReport) -> None:
        self._enter(trial, report)

    def should_prune(self, trial: TrialResult, report: EpochReport) -> str | None:
        rung = self._enter(trial, report)
        if rung is None or trial.origin == Origin.CONTROL or self.epochs - report.epoch < MIN_SAVED_EPOCHS:
            return None
        where = after_epochs(report.epoch)
        if report.phase == Phase.PRUNE:
            if rung.best_accuracy(trial.recipe.budget) < MIN_LEAD_OVER_CHANCE * self.chance:
                return None
            where = f"straight after pruning, among {trial.recipe.title} recipes"
        reason = rung.reason_to_prune(trial.number)
        return None if reason is None else f"{self._score.name} {self._score.text(report.metrics['accuracy'])} {where}: {reason}"

    def expected_epochs(self, position: int) -> float:
        expected, reaching, trained = 0.0, 1.0, 0.0
        for rung in rung_epochs(self.epochs, factor=self.factor):
            # The share of the trials that reach this rung are trained from the rung below up to it, and compared there with as many.
            expected += reaching * (rung - trained)
            reaching *= self._share_promoted(max(1, round(reaching * position)))
            trained = rung
        return expected + reaching * (self.epochs - trained)

    def _share_promoted(self, entries: int) -> float:
        """The probability that a trial continues past a rung at which it is one of `entries`.

        Half way between that of a trial which is as likely as any to be among the best, and that of one which a trained sampler proposed
        and which is the best so far. Below `factor` entries none is stopped.
        """
        return 1.0 if entries < self.factor else (1 + math.ceil(entries / self.factor) / entries) / 2

    def _enter(self, trial: TrialResult, report: EpochReport) -> Rung | None:
        """Adds the report to its rung. None where it belongs to no rung, or the trial has an earlier entry there."""
        accuracy = report.metrics.get("accuracy")
        rung = self._rung_of(trial, report)
        if rung is None or accuracy is None or not math.isfinite(accuracy):
            return None
        before = rung.entry_of(trial.number)
        # A trial is compared once at a rung, by its first report there; later ones have had more training than the others'
        # entries.
        if before is not None and report.epoch > before.epoch + SAME_EPOCH:
            return None
        rung.add(RungEntry(number=trial.number, flops=trial.recipe.budget, accuracy=accuracy, epoch=report.epoch))
        return rung

    def _rung_of(self, trial: TrialResult, report: EpochReport) -> Rung | None:
        if report.phase == Phase.PRUNE:
            # Without other rungs a trial is too short to be worth stopping anywhere.
            if not self._rungs:
                return None
            last_third = Rung(keep=1 - 1 / self.factor, min_entries=self.factor)
            return self._after_pruning.setdefault(trial.recipe.title, last_third)
        if report.phase != Phase.FINETUNE:
            return None
        # A method whose own training is long may pass the first rung before it is fine-tuned: the last one that it passed counts.
        reached = [level for level in self._rungs if level <= report.epoch + SAME_EPOCH]
        return self._rungs[max(reached)] if reached else None
