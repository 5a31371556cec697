"""`Coordinator`: which trial comes next and what became of it. Every decision is in the store before anything acts on it.

It knows nothing of Ray, so that the search's book-keeping is tested without a cluster.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
from typing import Protocol

from autoslim.errors import AutoslimError, JobError, OutputError
from autoslim.job import SearchJob
from autoslim.output import Output, is_disk_full
from autoslim.recipe import Recipe
from autoslim.result import EpochReport, TrialResult, TrialState
from autoslim.search import Proposer, Scheduler
from autoslim.store import Store
from autoslim.training import Outcome

GIVE_UP_AFTER = 5
"""So many trials failing in a row, with none complete, are the job's fault and not the recipes'."""


class Listener(Protocol):
    """Who wants to know how the search goes: the terminal, the dashboard."""

    def trial_begins(self, result: TrialResult, target: str) -> None: ...
    def trial_reports(self, result: TrialResult, report: EpochReport) -> None: ...
    def trial_ends(self, result: TrialResult, target: str) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
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
        output: Output,
        listeners: tuple[Listener, ...],
        *,
        scheduler: Scheduler,
    ) -> None:
        self.job, self.store, self.proposer, self.output, self.listeners = job, store, proposer, output, listeners
        self.scheduler = scheduler
        self.fatal: AutoslimError | None = None
        self._lock = threading.RLock()
        earlier = store.stored_trials(job.id)
        self._targets = {trial.result.number: trial.target for trial in earlier}
        for trial in earlier:
            for report in store.epochs(job.id, trial.result.number):
                scheduler.take(trial.result, report)
        self._unfinished = store.unfinished(job.id)
        self._next = len(self._targets)
        self._running: dict[int, TrialResult] = {}
        self._failed_in_a_row = 0

    def next_trial(self) -> Assignment | None:
        """What an earlier run left unfinished comes first, under its old number; None when all trials are handed out."""
        with self._lock:
            if self.fatal is not None:
                return None
            if self._unfinished:
                left = self._unfinished.pop(0)
                self.store.restart_trial(self.job.id, left.result.number)
                return self._begin(left.result, left.target)
            while self._next < self.job.trials:
                assignment = self._propose(self._next)
                self._next += 1
                if assignment is not None:
                    return assignment
            return None

    def _propose(self, number: int) -> Assignment | None:
        """None where the trial needs no training: it is infeasible, or has been run before."""
        proposal = self.proposer.propose(number, self.store.trials(self.job.id))
        recipe = proposal.recipe
        earlier = self.store.find_result(self.job.id, recipe.key)
        self.store.add_trial(self.job.id, number, recipe, origin=proposal.origin, target=proposal.target)
        self._targets[number] = proposal.target
        fresh = TrialResult(number=number, recipe=recipe, origin=proposal.origin, state=TrialState.RUNNING)
        if proposal.infeasible is not None:
            self._end(fresh.replace(state=TrialState.INFEASIBLE, error_class="InfeasibleError", error=proposal.infeasible))
            return None
        if earlier is not None:
            source = earlier.number if earlier.duplicate_of is None else earlier.duplicate_of
            self._end(
                earlier.replace(
                    number=number, origin=proposal.origin, recipe=recipe, duplicate_of=source, seconds=0.0, epochs=0.0
                )
            )
            return None
        return self._begin(fresh, proposal.target)

    def _begin(self, result: TrialResult, target: str) -> Assignment:
        self._running[result.number] = result
        for listener in self.listeners:
            listener.trial_begins(result, target)
        return Assignment(number=result.number, recipe=result.recipe, target=target)

    def report(self, number: int, report: EpochReport) -> bool:
        """Whether the trial goes on; where it does not, it has ended as stopped."""
        with self._lock:
            running = self._running[number]
            self.store.report(self.job.id, number, report)
            for listener in self.listeners:
                listener.trial_reports(running, report)
            reason = self.scheduler.judge(running, report)
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
                seconds=outcome.seconds,
                epochs=outcome.epochs,
                artifact=str(folder.relative_to(self.output.root)),
            )
            self._failed_in_a_row = 0
            self._end(result)

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
                self.fatal = JobError(
                    f"the first {self._failed_in_a_row} trials all failed; the last one with {error_class}: {error}"
                )

    def _any_complete(self) -> bool:
        return any(result.state is TrialState.COMPLETE for result in self.store.trials(self.job.id))

    def _end(self, result: TrialResult) -> None:
        self.store.finish_trial(self.job.id, result)
        self._running.pop(result.number, None)
        for listener in self.listeners:
            listener.trial_ends(result, self._targets[result.number])
