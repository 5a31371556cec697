"""Ray Tune's Searcher over the coordinator: Tune asks for trials and tells results, the store decides and remembers.

Ray's own OptunaSearch leaves NaN and stopped trials running for ever and takes a whole search down for one missing metric; here a
trial ends exactly once, as what it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from autoslim.core.result import EpochReport
from autoslim.errors import AutoslimError
from autoslim.training import Outcome
from workers.search.coordinator import Coordinator
from workers.search.tune_trainable import trial_config


class StoreSearcher(Searcher):  # type: ignore[misc]
    """`shared` is what all trials' configurations have in common."""

    def __init__(self, coordinator: Coordinator, shared: dict[str, Any]) -> None:
        super().__init__(metric=None, mode=None)
        self._coordinator: Coordinator | None = coordinator
        self._shared = shared
        self._numbers: dict[str, int] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self._coordinator is None:
            return Searcher.FINISHED
        coordinator = self._coordinator
        assignment = self._guard(coordinator.next_trial)
        if assignment is None:
            # Tune asks again when a trial has ended.
            return Searcher.FINISHED if coordinator.finished or coordinator.fatal is not None else None
        self._numbers[trial_id] = assignment.number
        folder = coordinator.output.trial(assignment.recipe.key)
        return trial_config(
            assignment.recipe, number=assignment.number, folder=folder, budget_label=assignment.target, shared=self._shared
        )

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Reports come by way of `StoreScheduler`, which Tune asks first, and alone where a trial is stopped."""

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial goes on. One that does not has ended in the store before Tune stops it."""
        if self._coordinator is None or "report" not in result or trial_id not in self._numbers:
            return True
        coordinator, report = self._coordinator, EpochReport.from_json(result["report"])
        if self._guard(lambda: coordinator.report(self._numbers[trial_id], report)) is False:
            del self._numbers[trial_id]
            return False
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called once a trial; a trial that Tune was interrupted in is not told at all and stays unfinished in the store."""
        number = self._numbers.pop(trial_id, None)
        if self._coordinator is None or number is None:
            return
        coordinator, last = self._coordinator, result or {}
        if "outcome" in last and not error:
            self._guard(lambda: coordinator.complete(number, Outcome.from_json(last["outcome"])))
        elif "error_class" in last:
            self._guard(lambda: coordinator.fail(number, last["error_class"], last["error"]))
        elif error:
            # Tune says why only afterwards, to its callbacks.
            self._numbers[trial_id] = number

    def worker_lost(self, trial_id: str, error: str) -> None:
        """Tune has given this trial up: its worker was lost more often than a cluster's fault explains."""
        number = self._numbers.pop(trial_id, None)
        if self._coordinator is not None and number is not None:
            coordinator = self._coordinator
            self._guard(lambda: coordinator.fail(number, "WorkerLostError", error))

    def _guard(self, action: Any) -> Any:
        """An error in a searcher would end Tune's event loop half-way; it ends the search in order instead."""
        try:
            return action()
        except AutoslimError as error:
            assert self._coordinator is not None
            self._coordinator.fatal = self._coordinator.fatal or error
            return None

    # Tune pickles its searcher beside the experiment. The store is what a search is resumed from, so there is nothing to keep.

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_coordinator": None}

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text(json.dumps({"resume": "from the store"}))

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a search is resumed from the store (`autoslim search --resume`), not from Tune's snapshots")


class StoreScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tune's side of the job's `Pruner`: the coordinator judges, over the store.

    Tune neither saves nor restores a scheduler's state, and tells a searcher of a stopped trial as if it were complete. This one has
    no state, and its searcher has forgotten a stopped trial by then.
    """

    def __init__(self, searcher: StoreSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """With no metric of its own, no result lacks one."""
        return metric is None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self._searcher.report(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


class LostWorkers(Callback):  # type: ignore[misc]
    """Tells the searcher what became of trials whose worker was lost for good."""

    def __init__(self, searcher: StoreSearcher) -> None:
        self._searcher = searcher

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.worker_lost(trial.trial_id, str(trial.get_error() or "no reason is known"))
