"""`TrialIndex`: a job's trials in memory. Every change is written to the store before it is made here.

Reading a thousand trials from the store takes a good part of a second, and every proposal needs all of them. The index is valid because
one driver at a time writes a job's trials.
"""

from __future__ import annotations

from autoslim.core.recipe import Recipe
from autoslim.core.result import ErrorClass, Origin, TrialResult, TrialState
from autoslim.search.refinement import searched
from autoslim.store import Store, StoredTrial

CUT_SHORT = "the most that the search may take was reached"
"""Why a trial has stopped that a later attempt goes on with."""


class TrialIndex:
    """`unfinished` are the trials that an earlier attempt left running or lost to the cluster, in number order; they are run again.

    `targets` has each trial's budget label, or `free`, by number.
    """

    def __init__(self, store: Store, job_id: str) -> None:
        self._store, self._job_id = store, job_id
        # A lost worker says nothing about the recipe, so that a new attempt runs it again, as it does where the memory was too small: the
        # attempt may have more. A trial's own error would come again. One that was cut short goes on where there is more to spend.
        for trial in store.stored_trials(job_id):
            lost = trial.result.error_class in (ErrorClass.WORKER_LOST, ErrorClass.OUT_OF_MEMORY)
            if (lost or trial.result.stopped == CUT_SHORT) and trial.result.duplicate_of is None:
                store.reopen_trial(job_id, trial.result.number)
        # Read again: the reopened trials are running now, and have no result.
        trials = store.stored_trials(job_id)
        self.targets = {trial.result.number: trial.target for trial in trials}
        self._results = {trial.result.number: trial.result for trial in trials}
        self._by_recipe: dict[str, TrialResult] = {}
        for result in self._results.values():
            self._index_recipe(result)
        self.unfinished: list[StoredTrial] = store.unfinished(job_id)

    @property
    def results(self) -> list[TrialResult]:
        """All trials in number order, running ones included."""
        return list(self._results.values())

    @property
    def searched(self) -> list[TrialResult]:
        """The search's own trials, numbered in the order of their proposals; the store may have refinement or reused trials between them.

        The proposer sees only these numbers, so that a job that is given more trials later continues as if it had had them at once.
        """
        own = searched(list(self._results.values()))
        return [result if result.number == place else result.replace(number=place) for place, result in enumerate(own)]

    @property
    def next_number(self) -> int:
        return len(self._results)

    def find(self, recipe_key: str) -> TrialResult | None:
        """The first ended trial of this recipe, or None."""
        return self._by_recipe.get(recipe_key)

    def add(self, recipe: Recipe, *, origin: Origin, target: str) -> TrialResult:
        """A trial that starts now."""
        result = TrialResult(number=self.next_number, recipe=recipe, origin=origin, state=TrialState.RUNNING)
        self._store.add_trial(self._job_id, result.number, recipe, origin=origin, target=target)
        self._set(result, target)
        return result

    def add_ended(self, result: TrialResult, target: str) -> None:
        """A trial that needs no training. The store never has it as running: after a crash it would be trained."""
        self._store.add_ended_trial(self._job_id, result, target=target)
        self._set(result, target)

    def end(self, result: TrialResult) -> None:
        self._store.finish_trial(self._job_id, result)
        self._set(result, self.targets[result.number])

    def _set(self, result: TrialResult, target: str) -> None:
        self._results[result.number], self.targets[result.number] = result, target
        self._index_recipe(result)

    def _index_recipe(self, result: TrialResult) -> None:
        # A running trial has no result to give, and a duplicate has that of its original.
        if result.state is not TrialState.RUNNING and result.duplicate_of is None:
            self._by_recipe.setdefault(result.recipe.key, result)
