"""Who follows a search: its trials, or all of it from its beginning to its end. Nothing heavy is imported here."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

from autoslim.core.result import EpochReport, TrialResult


class Listener(Protocol):
    """Who wants to know how the search goes: the terminal, the dashboard."""

    def trial_begins(self, result: TrialResult, target: str) -> None: ...
    def trial_reports(self, result: TrialResult, report: EpochReport) -> None: ...
    def trial_ends(self, result: TrialResult, target: str) -> None: ...
    def search_ends(self, reason: str, finals: int) -> None:
        """No further recipe is tried; `finals` trials of the best ones follow."""


class SearchStage(enum.StrEnum):
    """What comes after preparing: trials, and then the models that are handed over."""

    SEARCHING = "searching"
    FINALIZING = "finalizing"


class Watcher(Listener, Protocol):
    """A listener that is told of the search's phases, too."""

    def begins(self, budgets: Mapping[str, int], earlier: Sequence[TrialResult]) -> None:
        """`budgets` are multiply-accumulates by label, `earlier` the trials of earlier attempts."""

    def enters(self, stage: SearchStage) -> None: ...
    def says(self, text: str) -> None:
        """What is done before the first trial and after the last: the dense model's epochs, what is measured."""


class NoWatcher(Watcher):
    """For a search that nobody follows but its terminal."""

    def begins(self, budgets: Mapping[str, int], earlier: Sequence[TrialResult]) -> None:
        pass

    def enters(self, stage: SearchStage) -> None:
        pass

    def says(self, text: str) -> None:
        pass

    def trial_begins(self, result: TrialResult, target: str) -> None:
        pass

    def trial_reports(self, result: TrialResult, report: EpochReport) -> None:
        pass

    def trial_ends(self, result: TrialResult, target: str) -> None:
        pass

    def search_ends(self, reason: str, finals: int) -> None:
        pass
