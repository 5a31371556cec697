"""`Pruner`: what stops trials early, and what every one of them guarantees.

A new pruner is a class in its own file, a line in `PRUNERS` and its name in `autoslim.core.job`; the conformance suite in
`tests/search/pruners/test_conformance.py` then runs over it.
"""

from __future__ import annotations

from typing import Protocol

from autoslim.core.figures import format_epochs
from autoslim.core.result import EpochReport, TrialResult
from autoslim.core.score import ACCURACY, Score

MIN_SAVED_EPOCHS = 0.5
"""A trial is stopped only where this saves at least half an epoch. Nearer to its end, the final result is worth more."""
SAME_EPOCH = 1e-6
"""Epochs are sums of fractions: two that differ by less are the same."""


def after_epochs(epoch: float) -> str:
    """For a reason: `after 1 epoch`."""
    count = format_epochs(epoch)
    return f"after {count} epoch{'' if count == '1' else 's'}"


class Pruner(Protocol):
    """Stops the trials of one search that are behind the others.

    Every pruner guarantees:

    - **Purity.** A decision is a function of the reports that it has been given, in any process. Their order does not matter. A search
      that is resumed gives it the stored reports with `observe` and continues with `should_prune`.
    - **Repetition.** A report that is given again counts once and gets the same decision.
    - **Controls.** A control is never stopped, so that it can be compared with the search.
    - **FLOPs.** A trial is compared with trials of its own FLOPs, or with ones of no more FLOPs that are more accurate; a cheap trial is
      never stopped because costlier ones are more accurate. FLOPs are known before the first step.
    - **No waiting.** Each decision is made at once from what is there.
    """

    def __init__(self, *, epochs: float, chance: float, score: Score = ACCURACY) -> None:
        """`epochs` are a trial's, `chance` is the accuracy of the best constant guess. Reasons name the `score`."""

    def observe(self, trial: TrialResult, report: EpochReport) -> None:
        """Takes in a report without a decision."""

    def should_prune(self, trial: TrialResult, report: EpochReport) -> str | None:
        """Takes in a report. The reason for which its trial is stopped now; None where it continues."""

    def expected_epochs(self, position: int) -> float:
        """How many epochs a trial is expected to be trained for, when it is the `position`-th (from 1) of its FLOPs."""
        ...
