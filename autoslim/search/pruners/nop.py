"""`NopPruner`: stops nothing (Optuna's name for it)."""

from __future__ import annotations

from autoslim.core.result import EpochReport, TrialResult
from autoslim.core.score import ACCURACY, Score


class NopPruner:
    """Every trial is trained to its end."""

    def __init__(self, *, epochs: float, chance: float, score: Score = ACCURACY) -> None:
        self._epochs = epochs

    def observe(self, trial: TrialResult, report: EpochReport) -> None:
        pass

    def should_prune(self, trial: TrialResult, report: EpochReport) -> str | None:
        return None

    def expected_epochs(self, position: int) -> float:
        return self._epochs
