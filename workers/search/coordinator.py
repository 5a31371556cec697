"""`Coordinator`: which trial comes next and what became of it. Every decision is in the store before anything acts on it.

It knows nothing of Ray, so that the search's book-keeping is tested without a cluster.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time

from autoslim.core.files import is_disk_full
from autoslim.core.job import SearchJob
from autoslim.core.recipe import Recipe
from autoslim.core.result import BaseFacts, EpochReport, TrialResult, TrialState
from autoslim.core.run_folder import RunFolder
from autoslim.errors import AutoslimError, OutputError, TrialsFailedError
from autoslim.search import Proposer, Pruner, final_recipes, outclassed, search_limits, stop_reason
from autoslim.search.refinement import FINAL
from autoslim.store import Store
from autoslim.training import Outcome
from workers.progress.callbacks import Listener
from workers.search.trial_index import TrialIndex

GIVE_UP_AFTER = 5
"""So many trials failing in a row, with none complete, are the job's fault and not the recipes'."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialAssignment:
    """A trial to run now."""

    number: int
    recipe: Recipe
    target: str


class Coordinator:
    """Hands out trials and takes in results. `fatal` holds the error that ends the job, once there is one."""

    def __init__(
        self,
        job: SearchJob,
        store: Store,
        proposer: Proposer,
        output: RunFolder,
        listeners: tuple[Listener, ...],
        *,
        scheduler: Pruner,
        base: BaseFacts,
        slots: int = 1,
    ) -> None:
        """`slots` is how many trials run at a time."""
        self.job, self.store, self.proposer, self.output, self.listeners = job, store, proposer, output, listeners
        self.scheduler, self.base = scheduler, base
        self.fatal: AutoslimError | None = None
        self.finished = False
        self._lock = threading.RLock()
        self._ledger = TrialIndex(store, job.id)
        for result in self._ledger.results:
            for report in store.epochs(job.id, result.number):
                if result.origin != FINAL:
                    scheduler.observe(result, report)
        self._limits = search_limits(job)
        self._earlier = sum(result.seconds or 0.0 for result in self._ledger.results if result.duplicate_of is None) / slots
        self._began = time.monotonic()
        self._running: dict[int, TrialResult] = {}
        self._searched = False
        self._finals: list[tuple[str, Recipe]] | None = None
        self._failed_in_a_row = 0
        self._dropped: set[int] = set()

    def next_trial(self) -> TrialAssignment | None:
        """What an earlier run left unfinished comes first, under its old number.

        None where nothing is to be run now: for good when `finished`, else until a running trial has ended.
        """
        with self._lock:
            if self.fatal is not None:
                self.finished = True
            if self.finished:
                return None
            if self._ledger.unfinished:
                left = self._ledger.unfinished.pop(0)
                self.store.restart_trial(self.job.id, left.result.number)
                return self._begin(left.result, left.target)
            while not self._searched and self._enough() is None:
                assignment = self._propose()
                if assignment is not None:
                    return assignment
            return self._next_final()

    def _enough(self) -> str | None:
        searched = self._ledger.searched
        return stop_reason(
            self._limits,
            searched,
            a_trial=self.job.training.epochs,
            seconds=self._earlier + time.monotonic() - self._began,
            dense_flops=self.base.dense_flops,
            chance=self.base.chance,
        )

    def _propose(self) -> TrialAssignment | None:
        """None where the trial needs no training: it is infeasible, or has been run before."""
        searched = self._ledger.searched
        proposal = self.proposer.propose(len(searched), searched)
        if proposal.infeasible is None and self._ledger.find(proposal.recipe.key) is None:
            return self._begin(self._ledger.add(proposal.recipe, origin=proposal.origin, target=proposal.target), proposal.target)
        number = self._ledger.next_number
        fresh = TrialResult(number=number, recipe=proposal.recipe, origin=proposal.origin, state=TrialState.INFEASIBLE)
        if proposal.infeasible is not None:
            self._end_untrained(fresh.replace(error_class="InfeasibleError", error=proposal.infeasible), proposal.target)
        else:
            self._answer(fresh, proposal.target)
        return None

    def _answer(self, fresh: TrialResult, target: str) -> None:
        """With what the same recipe came to before."""
        earlier = self._ledger.find(fresh.recipe.key)
        assert earlier is not None
        again = {"number": fresh.number, "origin": fresh.origin, "seconds": 0.0, "epochs": 0.0}
        self._end_untrained(earlier.replace(duplicate_of=earlier.number, **again), target)

    def _next_final(self) -> TrialAssignment | None:
        """The best recipes once more and longer, when all others have ended."""
        self._searched = True
        if self._finals is None:
            # How many they are is not known before: what still runs may be the best, and what it takes is not left to them.
            if any(result.origin != FINAL for result in self._running.values()):
                return None
            self._finals = self._plan_finals()
            self._say_search_ends(len(self._finals))
        while self._finals:
            target, recipe = self._finals.pop(0)
            if self._ledger.find(recipe.key) is None:
                return self._begin(self._ledger.add(recipe, origin=FINAL, target=target), target)
        self.finished = True
        return None

    def _plan_finals(self) -> list[tuple[str, Recipe]]:
        return final_recipes(self._ledger.results, self.proposer.budgets, share=self.job.final_share, seeds=self.job.final_seeds)

    def _say_search_ends(self, finals: int) -> None:
        reason = self._enough()
        for listener in self.listeners:
            listener.search_ends(reason or "", finals)

    def _begin(self, result: TrialResult, target: str) -> TrialAssignment:
        self._running[result.number] = result
        for listener in self.listeners:
            listener.trial_begins(result, target)
        return TrialAssignment(number=result.number, recipe=result.recipe, target=target)

    def report(self, number: int, report: EpochReport) -> bool:
        """Whether the trial goes on; where it does not, it has ended as stopped."""
        with self._lock:
            running = self._running[number]
            self.store.report(self.job.id, number, report)
            for listener in self.listeners:
                listener.trial_reports(running, report)
            # The best of a search are tuned to their end.
            reason = None if running.origin == FINAL else self.scheduler.should_prune(running, report)
            if reason is not None:
                self._stop(running, report, reason)
            return reason is None

    def _stop(self, running: TrialResult, report: EpochReport, reason: str) -> None:
        reports = self.store.epochs(self.job.id, running.number)
        flops = self.proposer.flops_of(running.recipe)
        self._failed_in_a_row = 0
        self._end(
            running.replace(
                state=TrialState.STOPPED,
                stopped=reason,
                accuracy=report.metrics["accuracy"],
                accuracy_after_cut=next((past.metrics["accuracy"] for past in reversed(reports) if past.beat == "cut"), None),
                flops=flops,
                flops_predicted=flops,
                epochs=report.epoch,
                seconds=report.seconds,
            )
        )
        # Nothing goes on from there: the same recipe, proposed again, has this result.
        shutil.rmtree(self.output.trial(running.recipe.key) / "checkpoint", ignore_errors=True)

    def complete(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            running = self._running[number]
            folder = self.output.trial(running.recipe.key) / "model"
            result = running.replace(
                state=TrialState.COMPLETE,
                recipe=outcome.recipe,
                accuracy=outcome.accuracy,
                accuracy_after_cut=outcome.accuracy_after_cut,
                flops=outcome.flops,
                flops_predicted=outcome.flops_predicted,
                flops_mean=outcome.flops_mean,
                flops_max=outcome.flops_max,
                params=outcome.params,
                latency_ms=outcome.latency_ms,
                seconds=outcome.seconds,
                epochs=outcome.epochs,
                artifact=str(folder.relative_to(self.output.root)),
            )
            self._failed_in_a_row = 0
            self._end(result)
            self._drop_outclassed()

    def _drop_outclassed(self) -> None:
        """A search has many models, and those off the front that are not a budget's best either are of no more use; their rows stay."""
        for result in outclassed(self._ledger.results, self.proposer.budgets, self.job.limits):
            if result.number not in self._dropped and result.artifact is not None:
                self._dropped.add(result.number)
                shutil.rmtree((self.output.root / result.artifact).parent, ignore_errors=True)

    def fail(self, number: int, error_class: str, error: str) -> None:
        """The trial is bad and finished. A full disk is not its fault: then the search stops and the trial is run again on resume."""
        with self._lock:
            running = self._running.pop(number)
            if is_disk_full(OSError(error)):
                self.fatal = OutputError(f"the disk of {self.output.root} is full; make room and go on with --resume")
                return
            infeasible = error_class == "InfeasibleError"
            state = TrialState.INFEASIBLE if infeasible else TrialState.FAILED
            self._end(running.replace(state=state, error_class=error_class, error=error))
            self._failed_in_a_row += not infeasible
            if self._failed_in_a_row >= GIVE_UP_AFTER and not self._any_complete():
                message = f"the first {self._failed_in_a_row} trials all failed; the last one with {error_class}: {error}"
                self.fatal = TrialsFailedError(message, error_class)

    def _any_complete(self) -> bool:
        return any(result.state is TrialState.COMPLETE for result in self._ledger.results)

    def _end(self, result: TrialResult) -> None:
        self._ledger.end(result)
        self._running.pop(result.number, None)
        self._tell_end(result)

    def _end_untrained(self, result: TrialResult, target: str) -> None:
        self._ledger.add_ended(result, target)
        self._tell_end(result)

    def _tell_end(self, result: TrialResult) -> None:
        for listener in self.listeners:
            listener.trial_ends(result, self._ledger.targets[result.number])
