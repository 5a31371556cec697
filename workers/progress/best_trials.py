"""`BestTrials`: the best trial within each budget as a search goes on, and which of them are new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoslim.core.result import TrialResult, TrialState
from workers.progress.callbacks import SearchInfo


class BestTrials:
    """`announced` are trials by the label of their budget that were told of already."""

    def __init__(self, search: SearchInfo, announced: Mapping[str, int] | None = None) -> None:
        self._search, self._announced = search, dict(announced or {})
        self._results = {result.number: result for result in search.results if result.state is not TrialState.RUNNING}

    def add(self, result: TrialResult) -> None:
        """A trial that has ended."""
        self._results[result.number] = result

    def news(self) -> list[dict[str, Any]]:
        """For each budget, and the goal, whose best trial is another one now: its label, the trial and what was measured."""
        best = self._search.best(self._results.values())
        new = {label: result for label, result in best.items() if self._announced.get(label) != result.number}
        self._announced |= {label: result.number for label, result in new.items()}
        return [self._described(label, result) for label, result in new.items()]

    def _described(self, label: str, result: TrialResult) -> dict[str, Any]:
        # The goal has no budget to use.
        budget = self._search.budgets.get(label)
        share = None if budget is None else (result.flops or 0) / budget
        return {"label": label, **named(result), "accuracy": result.accuracy, "flops": result.flops, "budget_share": share}


def named(result: TrialResult) -> dict[str, Any]:
    """The trial, its method, and its dense model where the search has several."""
    model = {"model": result.recipe.model} if result.recipe.model else {}
    return {"trial": result.number, "method": result.recipe.method, **model}
