"""The coordinator as Ray Tune's Searcher, Scheduler and Callback: Tune asks for trials and passes results on, the store decides.

Ray's own OptunaSearch leaves NaN and stopped trials running for ever, and one missing metric ends a whole search; here a trial ends
exactly once, in the state that it ended in. A trial whose worker is lost is one more trial to Tune, with the same number in the store: the
coordinator counts the losses, since Tune would count a node that leaves as a failure of the trial.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ray.exceptions import OutOfMemoryError as RayOutOfMemory
from ray.exceptions import RayError
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from autoslim.core.job import Resources
from autoslim.core.result import EpochReport, ErrorClass, Outcome
from autoslim.errors import AutoslimError, PreemptedError, UnavailableError
from workers.search.coordinator import RETRIES, Coordinator
from workers.search.full_disk import FullDisk
from workers.search.lost_actors import LossInTelling
from workers.search.node_verdict import REASONS, NodeVerdict
from workers.search.nodes import NodeState, own_node_is_lost
from workers.search.slots import Slots
from workers.search.tune_trainable import trial_config

T = TypeVar("T")

RAY_OUT_OF_MEMORY = f"{RayOutOfMemory.__module__}.{RayOutOfMemory.__qualname__}"
"""In the traceback that Tune keeps of a trial whose worker Ray has ended for memory."""
# The last line of an error is what tables and events show.
_ENDED_FOR_MEMORY = (
    "the trial was ended for memory, in every try: its node had too little left. A smaller batch size or fewer trials at a time "
    "(--batch-size, --concurrency) need less"
)
_LEFT_NODE = f"{PreemptedError.__module__}.{PreemptedError.__qualname__}"
"""In the error of a trial that had to leave its node, and has written a checkpoint."""
# Longer than a new worker takes to import PyTorch, so that a trial that merely starts is none that waits.
_STANDSTILL_SECONDS = 45.0
_LOOK_SECONDS = 5.0
"""Between two looks at the driver's node while no trial runs. One look may be at a head that does not know its nodes again yet."""
_TURN_SECONDS = 0.1
"""Of Tune's loop while it has nothing to do but to wait for the verdict on a lost worker: as long as it waits for its trials."""
_OWN_NODE_LOST = (
    "the Ray cluster has lost the node that this search is connected to, and gives it no place for trials any more\n"
    "Its raylet or the head has ended, or they could not reach each other. Finished trials are kept: continue with --resume"
)

_log = logging.getLogger(__name__)


class CoordinatorSearcher(Searcher):  # type: ignore[misc]
    """`common` is what the configurations of all trials have in common (`trial_config`), and `of_model` what those of a recipe's `model`
    have beside it. At most `slots.running` trials are given to Tune at a time. `over` is whether Tune has to end at once."""

    def __init__(
        self,
        coordinator: Coordinator,
        slots: Slots,
        common: Mapping[str, Any],
        of_model: Callable[[str], Mapping[str, Any]] = lambda model: {},
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._coordinator: Coordinator | None = coordinator
        self._slots = slots
        self._common, self._of_model = dict(common), of_model
        # Trials that Tune runs now: their numbers in the store, by Tune's own ids.
        self._numbers: dict[str, int] = {}
        # Trials whose worker was lost, perhaps with its node: what decides that, and Ray's error, by Tune's ids. They keep their places.
        self._undecided: dict[str, tuple[NodeVerdict, str]] = {}
        self.over = False

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial. Tune asks in every turn of its loop; after None again, and after FINISHED never."""
        if self._coordinator is None or self.over:
            return Searcher.FINISHED
        # Where no other trial is left, Tune asks here alone, for up to ten minutes, and ends no step of its loop.
        self.decide_losses()
        if len(self._numbers) >= self._slots.running:
            return None
        coordinator = self._coordinator
        assignment = self._guard(coordinator.next_trial)
        if assignment is None:
            # Any trial that runs may be lost with its node, and has to be given out again.
            ended = coordinator.finished and not self._numbers
            return Searcher.FINISHED if ended or coordinator.fatal is not None else None
        self._numbers[trial_id] = assignment.number
        folder = coordinator.mirror.name(coordinator.output.trial(assignment.recipe.key))
        common = {**self._common, **self._of_model(assignment.recipe.model), "full_nodes": self._slots.full_nodes}
        return trial_config(assignment.recipe, number=assignment.number, folder=folder, target=assignment.target, common=common)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Does nothing: `CoordinatorScheduler` passes each report on. Tune asks it first, and only it where a trial is stopped."""

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial continues. One that does not has ended in the store before Tune stops it."""
        if self._coordinator is None or trial_id not in self._numbers:
            return True
        if "told" in result:
            self._coordinator.tell(self._numbers[trial_id], result["told"])
        if "report" not in result:
            return True
        coordinator, report = self._coordinator, EpochReport.from_json(result["report"])
        if self._guard(lambda: coordinator.report(self._numbers[trial_id], report)) is False:
            # Forgotten before Tune reports it as complete, which it does with a stopped trial as well.
            del self._numbers[trial_id]
            return False
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called once a trial. For a trial in which Tune was interrupted it is not called, and the store has it as unfinished."""
        number = self._numbers.pop(trial_id, None)
        if self._coordinator is None or number is None:
            return
        coordinator, last = self._coordinator, result or {}
        if "outcome" in last and not error:
            self._guard(lambda: coordinator.complete(number, Outcome.from_json(last["outcome"])))
        elif "error_class" in last:
            self._guard(lambda: coordinator.fail(number, last["error_class"], last["error"]))
        elif error:
            # The trial stays known: Tune gives the reason only later, to `LostWorkerCallback`.
            self._numbers[trial_id] = number

    def worker_lost(self, trial_id: str, error: str, verdict: NodeVerdict) -> None:
        """The trial's worker was lost, or has left its node; the coordinator decides whether the trial is run again. Where `verdict` has to
        say whether it was lost with its node, `decide_losses` goes on."""
        if self._coordinator is None or trial_id not in self._numbers:
            return
        if RAY_OUT_OF_MEMORY in error:
            text = f"{error.rstrip()}\n{_ENDED_FOR_MEMORY}"
            self._lost(trial_id, "its node had too little memory left", text, error_class=ErrorClass.OUT_OF_MEMORY)
        elif _LEFT_NODE in error:
            self._lost(trial_id, REASONS[NodeState.DRAINING], error, retries=None)
        elif (full := FullDisk.read(error)) is not None:
            self._disk_full(trial_id, full, error)
        # A process that has ended itself was not lost with its node.
        elif stalled := self._coordinator.take_stall(self._numbers[trial_id]):
            self._lost(trial_id, "its process did nothing any more", f"{error.rstrip()}\n{stalled}")
        else:
            self._undecided[trial_id] = (verdict, error)
            self.decide_losses()

    def _disk_full(self, trial_id: str, full: FullDisk, error: str) -> None:
        """No try of the trial, which goes to another node; where there is none, or the output's own disk is full, the search ends."""
        assert self._coordinator is not None
        if full.node and self._fits_elsewhere(full.node):
            self.slots_changed()
            self._lost(trial_id, f"the disk is full at {full}; it goes to another node", error, retries=None)
        else:
            coordinator, number = self._coordinator, self._numbers.pop(trial_id)
            self._guard(lambda: coordinator.disk_full(number, error))

    def _fits_elsewhere(self, full_node: str) -> bool:
        try:
            return self._slots.disk_is_full(full_node)
        except RayError as error:
            _log.warning("cannot ask Ray for nodes whose disks have room: %s", error)
            # The next look at the nodes tells.
            return True

    def decide_losses(self) -> bool:
        """Asks for the nodes of lost workers. Whether all are decided. A lost worker is a try of its trial, and a lost node is none."""
        for trial_id, (verdict, error) in list(self._undecided.items()):
            state = verdict.look()
            if state is None:
                continue
            del self._undecided[trial_id]
            self._lost(trial_id, REASONS[state], error, retries=RETRIES if state is NodeState.ALIVE else None)
        return not self._undecided

    def _lost(
        self,
        trial_id: str,
        reason: str,
        error: str,
        *,
        retries: int | None = RETRIES,
        error_class: str = ErrorClass.WORKER_LOST,
    ) -> None:
        assert self._coordinator is not None
        coordinator, number = self._coordinator, self._numbers.pop(trial_id)
        self._guard(lambda: coordinator.lost(number, reason, error, retries=retries, error_class=error_class))

    def slots_changed(self) -> None:
        """Another number of trials runs side by side now."""
        if self._coordinator is not None:
            coordinator = self._coordinator
            self._guard(lambda: coordinator.slots_changed(self._slots.running))

    def wants_more(self) -> bool:
        """Whether every place has its trial, and further trials would begin if there were more places."""
        full = len(self._numbers) >= self._slots.running
        return full and self._coordinator is not None and self._coordinator.wants_more()

    def waits(self, reason: str | None) -> None:
        if self._coordinator is not None:
            coordinator = self._coordinator
            self._guard(lambda: coordinator.wait(reason))

    def end(self, error: AutoslimError) -> None:
        """The search cannot go on; what Tune still has is never started."""
        self.over = True
        if self._coordinator is not None:
            self._coordinator.fatal = self._coordinator.fatal or error

    def _guard(self, action: Callable[[], T]) -> T | None:
        """Runs `action`. An exception would end Tune's event loop half-way; as `fatal` it ends the search in order."""
        try:
            return action()
        except AutoslimError as error:
            assert self._coordinator is not None
            self._coordinator.fatal = self._coordinator.fatal or error
            return None

    # Tune pickles its searcher with the experiment. A search is resumed from the store, so that there is nothing to keep.

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_coordinator": None}

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text(json.dumps({"resume": "from the store"}))

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a search is resumed from the store (`autoslim search --resume`), not from Tune's snapshots")


class CoordinatorScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tune's Scheduler over the job's `Pruner`, which the coordinator asks.

    Tune neither saves nor restores a scheduler's state, and reports a stopped trial to the searcher as complete. This one has no state,
    and its searcher no longer knows a stopped trial by then.
    """

    def __init__(self, searcher: CoordinatorSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accepts that there is no metric: with one, Tune would refuse results that lack it."""
        return metric is None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        continues = self._searcher.report(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)


class LostWorkerCallback(Callback):  # type: ignore[misc]
    """Passes the error of a trial whose worker was lost to the searcher. `loss` says where it was, and `judge` what becomes of the node."""

    def __init__(
        self, searcher: CoordinatorSearcher, loss: LossInTelling, *, judge: Callable[[str | None], NodeVerdict] = NodeVerdict
    ) -> None:
        self._searcher, self._loss, self._judge = searcher, loss, judge

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Tune's own `get_error` reads a copy that it makes of this file later.
        file = Path(trial.error_file or "")
        error = file.read_text() if file.is_file() else "Ray gives no reason"
        self._searcher.worker_lost(trial.trial_id, error, self._judge(self._loss.node_id))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if not self._searcher.decide_losses() and not {"PENDING", "RUNNING"} & {trial.status for trial in trials}:
            # Tune's loop waits for what its trials do, and not at all where it has none.
            time.sleep(_TURN_SECONDS)


class StandstillCallback(Callback):  # type: ignore[misc]
    """Says so where trials wait for a place and none runs: the nodes that they fit on are gone or full of other jobs, or their workers
    take long to start on a busy machine. Ends the search where the cluster has lost the driver's own node, by two looks in a row
    (`is_lost`), and so gives it no place any more.

    `clock` is in seconds.
    """

    def __init__(
        self,
        searcher: CoordinatorSearcher,
        resources: Resources,
        *,
        is_lost: Callable[[], bool] = own_node_is_lost,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._searcher, self._is_lost, self._clock = searcher, is_lost, clock
        counts = ((resources.cpu, "CPU"), (resources.gpu, "GPU"))
        needs = " and ".join(f"{count:g} {name}{'' if count == 1 else 's'}" for count, name in counts if count)
        self._reason = f"no trial runs: waiting for a node with {needs} free, or for a worker to start there"
        self._since: float | None = None
        self._told = False
        self._looked = float("-inf")
        self._seemed_lost = False

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        states = {trial.status for trial in trials}
        if "PENDING" not in states or "RUNNING" in states:
            self._since = None
        elif self._since is None:
            self._since = self._clock()
        stands_still = self._since is not None and self._clock() - self._since > _STANDSTILL_SECONDS
        if stands_still is not self._told:
            self._told = stands_still
            self._searcher.waits(self._reason if stands_still else None)
        if not stands_still:
            self._seemed_lost = False
        elif self._clock() - self._looked >= _LOOK_SECONDS:
            self._looked = self._clock()
            self._look()

    def _look(self) -> None:
        seemed_lost, self._seemed_lost = self._seemed_lost, False
        try:
            self._seemed_lost = self._is_lost()
        except RayError as error:
            _log.warning("cannot ask Ray for its nodes: %s", error)
        if seemed_lost and self._seemed_lost:
            self._searcher.end(UnavailableError(_OWN_NODE_LOST))
