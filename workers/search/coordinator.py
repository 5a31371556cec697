"""`Coordinator`: which trial runs next, and what its reports mean. Every decision is in the store before it takes effect.

A search that is resumed makes the decisions that the undisturbed search would have made, because each one is a function of the job and
the stored trials. The coordinator knows nothing of Ray, so that all of this is tested without a cluster.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, deque

from autoslim.core.files import is_disk_full
from autoslim.core.job import SearchJob
from autoslim.core.recipe import Recipe
from autoslim.core.result import BaseFacts, EpochReport, ErrorClass, Origin, Outcome, Phase, TrialResult, TrialState
from autoslim.core.run_folder import RunFolder
from autoslim.errors import AutoslimError, DiskFullError, TrialsFailedError
from autoslim.search import Proposal, Proposer, Pruner, outclassed, refinement_recipes, search_limits, stop_reason
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.store import Store
from workers.progress.callbacks import SearchCallback
from workers.search.full_disk import FullDisk
from workers.search.spending_guard import SpendingGuard
from workers.search.stall_note import StallNote
from workers.search.trial_index import CUT_SHORT, TrialIndex

GIVE_UP_AFTER = 5
"""Failed trials in a row, with no complete one, that end the job: its settings are at fault then, and not five recipes."""
RETRIES = 3
"""How often in a row, without a report in between, a trial is run again whose worker was lost on a node that still is there: the system ran
out of memory, or the trial brings its process down. A lost node says nothing of the trial, and is no try."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialAssignment:
    """A trial to run now."""

    number: int
    recipe: Recipe
    target: str


class Coordinator:
    """Hands out trials and takes their reports. `fatal` is the error that ends the job, once there is one. `spending`, which follows the
    trials as one of the `callbacks`, says when none may begin. `mirror` has what trials leave, where nodes share no file system.

    Thread-safe: Ray Tune calls from its event loop, a simulation from its own. `slots` is how many trials run at a time.
    """

    def __init__(
        self,
        job: SearchJob,
        store: Store,
        proposer: Proposer,
        output: RunFolder,
        callbacks: tuple[SearchCallback, ...],
        *,
        pruner: Pruner,
        base: BaseFacts,
        slots: int = 1,
        spending: SpendingGuard | None = None,
        mirror: Mirror = NO_MIRROR,
    ) -> None:
        self._spending, self.mirror = spending, mirror
        self.job, self.store, self.proposer, self.output, self.callbacks = job, store, proposer, output, callbacks
        self.pruner, self.base = pruner, base
        self.fatal: AutoslimError | None = None
        self.finished = False
        self._lock = threading.RLock()
        self._index = TrialIndex(store, job.id)
        self._observe_stored_reports()
        self._limits, self._floor = search_limits(job), job.floor(base.dense_accuracy)
        # The wall time of earlier attempts is not stored; their trials took `slots` places side by side.
        trained = [result.seconds or 0.0 for result in self._index.results if result.duplicate_of is None]
        self._earlier_seconds = sum(trained) / slots
        self._began = time.monotonic()
        self._running: dict[int, TrialResult] = {}
        # Trials that go on from their checkpoints as soon as there is a place; they stay among the running ones.
        self._again: deque[TrialAssignment] = deque()
        # Losses since a trial's last report of progress, and the epoch of that report.
        self._losses: Counter[int] = Counter()
        self._furthest: dict[int, float] = {}
        # The notes that `take_stall` has given a reason from.
        self._stalls: dict[int, str] = {}
        self._search_ended = False
        self._refinement_recipes: list[tuple[str, Recipe]] | None = None
        self._failed_in_a_row = 0
        self._deleted: set[int] = set()

    def _observe_stored_reports(self) -> None:
        """The pruner's state is not stored: it is what the pruner has observed, in the order of the trials' numbers."""
        for result in self._index.results:
            for report in self.store.epochs(self.job.id, result.number):
                if result.origin != Origin.REFINEMENT:
                    self.pruner.observe(result, report)

    # Which trial runs next

    def next_trial(self) -> TrialAssignment | None:
        """The next trial. None until a running trial has ended or was lost; for good where `finished` and none runs."""
        with self._lock:
            if self.fatal is not None:
                self.finished = True
                return None
            if self._again:
                return self._again.popleft()
            if self.finished:
                return None
            # Unfinished trials of an earlier attempt first, under their old numbers: later proposals depend on their results.
            while self._index.unfinished:
                left = self._index.unfinished.pop(0)
                if self._refusal(left.result.recipe) is not None:
                    self._cut_short(left.result)
                    continue
                self.store.restart_trial(self.job.id, left.result.number)
                return self._start(left.result, left.target)
            # Then proposals. Some need no training, so that several may be made before one is handed out.
            while not self._search_ended and self._stop_reason() is None:
                assignment = self._propose()
                if assignment is not None:
                    return assignment
            # Then the refinement: the best recipes again, for more epochs.
            return self._next_final()

    def _refusal(self, recipe: Recipe) -> str | None:
        return None if self._spending is None else self._spending.refusal(recipe.training.epochs)

    def _stop_reason(self) -> str | None:
        spent = None
        if self._spending is not None:
            spent = self._spending.refusal(self.job.training.epochs, share=1 - self.job.final_share)
        return spent or stop_reason(
            self._limits,
            self._index.searched,
            a_trial=self.job.training.epochs,
            seconds=self._earlier_seconds + time.monotonic() - self._began,
            dense_flops=self.base.front_flops,
            chance=self.base.chance,
        )

    def _propose(self) -> TrialAssignment | None:
        """None where the proposal needs no training: it is infeasible, or its recipe has been run before."""
        history = self._index.searched
        proposal = self.proposer.propose(len(history), history)
        if proposal.infeasible is not None:
            self._end_untrained(self._infeasible(proposal), proposal.target)
            return None
        # Training is deterministic: the same recipe would give the same result again, so that it takes the stored one.
        if (earlier := self._index.find(proposal.recipe.key)) is not None:
            self._end_untrained(self._duplicate(proposal, earlier), proposal.target)
            return None
        return self._start(self._index.add(proposal.recipe, origin=proposal.origin, target=proposal.target), proposal.target)

    def _infeasible(self, proposal: Proposal) -> TrialResult:
        return TrialResult(
            number=self._index.next_number,
            recipe=proposal.recipe,
            origin=proposal.origin,
            state=TrialState.INFEASIBLE,
            error_class=ErrorClass.INFEASIBLE,
            error=proposal.infeasible,
        )

    def _duplicate(self, proposal: Proposal, earlier: TrialResult) -> TrialResult:
        return earlier.replace(
            number=self._index.next_number, origin=proposal.origin, duplicate_of=earlier.number, seconds=0.0, epochs=0.0
        )

    def _next_final(self) -> TrialAssignment | None:
        self._search_ended = True
        if self._refinement_recipes is None:
            # A trial that still runs may be the best of its budget, and its epochs count towards the share that is kept for the
            # refinement: the recipes are chosen when the last one has ended.
            if any(result.origin != Origin.REFINEMENT for result in self._running.values()):
                return None
            self._refinement_recipes = refinement_recipes(
                self._index.results,
                self.proposer.budgets,
                share=self.job.final_share,
                seeds=self.job.final_seeds,
                floor=self._floor,
                limits=self.job.limits,
            )
            self._notify_search_ended(len(self._refinement_recipes))
        while self._refinement_recipes:
            target, recipe = self._refinement_recipes.pop(0)
            # An earlier attempt may have run some of them, and there may be too little left for others.
            if self._index.find(recipe.key) is None and self._refusal(recipe) is None:
                return self._start(self._index.add(recipe, origin=Origin.REFINEMENT, target=target), target)
        self.finished = True
        return None

    def _start(self, result: TrialResult, target: str) -> TrialAssignment:
        self._running[result.number] = result
        for callback in self.callbacks:
            callback.on_trial_start(result, target)
        return TrialAssignment(number=result.number, recipe=result.recipe, target=target)

    def wait(self, reason: str | None) -> None:
        """No trial runs, for this reason; None when one does again."""
        for callback in self.callbacks:
            callback.on_wait(reason)

    def wants_more(self) -> bool:
        """Whether further trials would begin if there were places for them."""
        with self._lock:
            if self.finished or self.fatal is not None:
                return False
            known = bool(self._index.unfinished or self._refinement_recipes)
            return known or (not self._search_ended and self._stop_reason() is None)

    def slots_changed(self, slots: int) -> None:
        """From now on so many trials run side by side: nodes have joined the cluster, or left it."""
        for callback in self.callbacks:
            callback.on_slots_change(slots)

    # What became of a trial

    def tell(self, number: int, line: str) -> None:
        """The trial has its place, and does not train yet; the line says why."""
        with self._lock:
            for callback in self.callbacks:
                callback.on_trial_opening(self._running[number], line)

    def report(self, number: int, report: EpochReport) -> bool:
        """Whether the trial continues. One that does not has ended as stopped when this returns."""
        with self._lock:
            running = self._running[number]
            self.store.report(self.job.id, number, report)
            # A trial that goes on from a checkpoint makes the report of that again, which is no progress.
            if report.epoch > self._furthest.get(number, float("-inf")):
                self._furthest[number], self._losses[number] = report.epoch, 0
            for callback in self.callbacks:
                callback.on_epoch_end(running, report)
            # Final trials run for other numbers of epochs than those that the pruner compares, and are trained to their end.
            reason = None if running.origin == Origin.REFINEMENT else self.pruner.should_prune(running, report)
            if reason is not None:
                self._prune(running, report, reason)
            return reason is None

    def _prune(self, running: TrialResult, report: EpochReport, reason: str) -> None:
        reports = self.store.epochs(self.job.id, running.number)
        after_pruning = [past.metrics["accuracy"] for past in reports if past.phase == Phase.PRUNE]
        # The model is never completed and counted, so that its FLOPs are those of its plan's closed form.
        flops = self.proposer.flops_of(running.recipe)
        self._failed_in_a_row = 0
        self._end(
            running.replace(
                state=TrialState.STOPPED,
                stopped=reason,
                accuracy=report.metrics["accuracy"],
                accuracy_after_pruning=after_pruning[-1] if after_pruning else None,
                flops=flops,
                flops_predicted=flops,
                epochs=report.epoch,
                seconds=report.seconds,
            )
        )
        # Nothing continues from the checkpoint: the same recipe, proposed again, takes this result.
        self.mirror.delete(self.output.trial(running.recipe.key) / "checkpoint")

    def end_running(self) -> int:
        """Trials that still run have been told to stop: the most that the search may take is reached. Their checkpoints stay. Returns
        how many they are."""
        with self._lock:
            left = [*self._running.values(), *(unfinished.result for unfinished in self._index.unfinished)]
            for running in left:
                self._cut_short(running)
            self._index.unfinished.clear()
            self._again.clear()
            if not self._search_ended:
                self._search_ended = True
                self._notify_search_ended(0)
            return len(left)

    def _cut_short(self, running: TrialResult) -> None:
        last = next(reversed(self.store.epochs(self.job.id, running.number)), None)
        flops = self.proposer.flops_of(running.recipe)
        self._end(
            running.replace(
                state=TrialState.STOPPED,
                stopped=CUT_SHORT,
                accuracy=None if last is None else last.metrics.get("accuracy"),
                flops=flops,
                flops_predicted=flops,
                epochs=0.0 if last is None else last.epoch,
                seconds=0.0 if last is None else last.seconds,
            )
        )

    def complete(self, number: int, outcome: Outcome) -> None:
        """The trial has trained to its end, and its model is in the trial's folder. The result keeps the recipe as it was proposed: it is
        what names the trial, and what a sampler learns from. The knobs that a chain's later steps ended with are in the model's config.
        """
        with self._lock:
            running = self._running[number]
            folder = self.output.trial(running.recipe.key) / "model"
            result = running.replace(
                state=TrialState.COMPLETE,
                **outcome.measurements(),
                artifact=str(folder.relative_to(self.output.root)),
            )
            self._failed_in_a_row = 0
            self._end(result)
            self._delete_outclassed_models()

    def _delete_outclassed_models(self) -> None:
        """Now rather than at the end: a search has hundreds of models, and one that no later result can bring back needs no disk."""
        for result in outclassed(self._index.results, self.proposer.budgets, self.job.limits, self._floor):
            if result.number not in self._deleted and result.artifact is not None:
                self._deleted.add(result.number)
                self.mirror.delete((self.output.root / result.artifact).parent)

    def take_stall(self, number: int) -> str | None:
        """Why the trial's process has ended itself, in words, once for each note; None where it has left none since."""
        with self._lock:
            folder = self.output.trial(self._running[number].recipe.key)
        # Without the lock: a store may be slow to answer.
        found = StallNote.of_trial(folder, self.mirror).read()
        if found is None or found.note == self._stalls.get(number):
            return None
        self._stalls[number] = found.note
        return found.sentence

    def lost(
        self, number: int, reason: str, error: str, *, retries: int | None, error_class: str = ErrorClass.WORKER_LOST
    ) -> None:
        """The trial's worker is gone. The trial goes on from its checkpoint, unless it was lost more than `retries` times in a row (None:
        however often, as with its node): then it has failed with `error`. `reason` is for the user."""
        with self._lock:
            running = self._running[number]
            if retries is not None:
                self._losses[number] += 1
                if self._losses[number] > retries:
                    self.fail(number, error_class, error)
                    return
            self._again.append(TrialAssignment(number=number, recipe=running.recipe, target=self._index.targets[number]))
            for callback in self.callbacks:
                callback.on_trial_lost(running, reason)

    def fail(self, number: int, error_class: str, error: str) -> None:
        """The trial has ended with an error. Enough of these in a row end the job."""
        with self._lock:
            if is_disk_full(OSError(error)):
                self.disk_full(number, error)
                return
            running = self._running.pop(number)
            infeasible = error_class == ErrorClass.INFEASIBLE
            state = TrialState.INFEASIBLE if infeasible else TrialState.FAILED
            self._end(running.replace(state=state, error_class=error_class, error=error))
            # Infeasible trials are expected: a space may hold recipes that do not fit into memory.
            self._failed_in_a_row += not infeasible
            if self._failed_in_a_row >= GIVE_UP_AFTER and not self._any_complete():
                message = f"the first {self._failed_in_a_row} trials all failed; the last one with {error_class}: {error}"
                self.fatal = TrialsFailedError(message, error_class)

    def disk_full(self, number: int, error: str) -> None:
        """The trial has found a disk full, as the error says, and there is no other one for it. That is not the recipe's fault: the search
        stops, and the trial stays unfinished, to be run again on `--resume`."""
        with self._lock:
            self._running.pop(number)
            found = FullDisk.read(error)
            last = error.strip().rpartition("\n")[2]
            unnamed = DiskFullError(
                f"a disk is full where trial {number} ran: {last}; free some space and continue with --resume"
            )
            self.fatal = self.fatal or (unnamed if found is None else found.error())

    def _any_complete(self) -> bool:
        return any(result.state is TrialState.COMPLETE for result in self._index.results)

    def _end(self, result: TrialResult) -> None:
        self._index.end(result)
        self._running.pop(result.number, None)
        self._notify_ended(result)

    def _end_untrained(self, result: TrialResult, target: str) -> None:
        self._index.add_ended(result, target)
        self._notify_ended(result)

    def _notify_ended(self, result: TrialResult) -> None:
        for callback in self.callbacks:
            callback.on_trial_end(result, self._index.targets[result.number])

    def _notify_search_ended(self, refinements: int) -> None:
        reason = self._stop_reason() or ""
        for callback in self.callbacks:
            callback.on_search_end(reason, refinements)
