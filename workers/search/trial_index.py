"""`TrialIndex`: a job's trials in memory, for as long as one driver writes them; every change is in the store before it is here.

Reading a thousand trials from the store takes a good part of a second, and every proposal wants them all.
"""

from __future__ import annotations

from autoslim.core.recipe import Recipe
from autoslim.core.result import TrialResult, TrialState
from autoslim.search.refinement import searched
from autoslim.store import Store, StoredTrial

LOST = "WorkerLostError"
"""The error class of a trial that the cluster took away more often than a trial is run again."""


class TrialIndex:
    """What an earlier attempt left: `unfinished` trials, and those whose workers were lost, are to be run again."""

    def __init__(self, store: Store, job_id: str) -> None:
        self.store, self.job_id = store, job_id
        for trial in store.stored_trials(job_id):
            if trial.result.error_class == LOST and trial.result.duplicate_of is None:
                store.reopen_trial(job_id, trial.result.number)
        trials = store.stored_trials(job_id)
        self.targets = {trial.result.number: trial.target for trial in trials}
        self._results = {trial.result.number: trial.result for trial in trials}
        self._ended: dict[str, TrialResult] = {}
        for result in self._results.values():
            self._index(result)
        self.unfinished: list[StoredTrial] = store.unfinished(job_id)

    @property
    def results(self) -> list[TrialResult]:
        """In number order, running ones too."""
        return list(self._results.values())

    @property
    def searched(self) -> list[TrialResult]:
        """The search's own trials, numbered as they were proposed; the final ones may stand between them."""
        own = searched(list(self._results.values()))
        return [result if result.number == place else result.replace(number=place) for place, result in enumerate(own)]

    @property
    def next_number(self) -> int:
        return len(self._results)

    def find(self, recipe_key: str) -> TrialResult | None:
        """The ended trial of this recipe that others are duplicates of."""
        return self._ended.get(recipe_key)

    def add(self, recipe: Recipe, *, origin: str, target: str) -> TrialResult:
        """A trial that begins now."""
        result = TrialResult(number=self.next_number, recipe=recipe, origin=origin, state=TrialState.RUNNING)
        self.store.add_trial(self.job_id, result.number, recipe, origin=origin, target=target)
        self._keep(result, target)
        return result

    def add_ended(self, result: TrialResult, target: str) -> None:
        """A trial that needs no training. It is never seen running: a crash in between would have it trained."""
        self.store.add_ended_trial(self.job_id, result, target=target)
        self._keep(result, target)

    def end(self, result: TrialResult) -> None:
        self.store.finish_trial(self.job_id, result)
        self._keep(result, self.targets[result.number])

    def _keep(self, result: TrialResult, target: str) -> None:
        self._results[result.number], self.targets[result.number] = result, target
        self._index(result)

    def _index(self, result: TrialResult) -> None:
        if result.state is not TrialState.RUNNING and result.duplicate_of is None:
            self._ended.setdefault(result.recipe.key, result)
