"""What Ray Tune tells of trials without a cluster: those that find no place, and those whose worker was ended for memory."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.sample_search import make_job
from helpers.simulated_trials import make_coordinator
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RpcError

from autoslim.core.budget import Budget
from autoslim.core.job import Resources
from autoslim.core.result import ErrorClass, TrialState
from autoslim.core.urls import default_url
from autoslim.errors import DiskFullError, PreemptedError, UnavailableError
from autoslim.storage.mirror import NO_MIRROR
from autoslim.store import Store
from workers.search.coordinator import RETRIES
from workers.search.full_disk import FullDisk
from workers.search.lost_actors import LossInTelling, as_actor_error
from workers.search.node_verdict import NodeVerdict
from workers.search.nodes import NodeState
from workers.search.resources import Node
from workers.search.slots import Slots
from workers.search.stall_note import StallNote
from workers.search.trial_index import TrialIndex
from workers.search.tune_searcher import _STANDSTILL_SECONDS, CoordinatorSearcher, LostWorkerCallback, StandstillCallback


@pytest.fixture
def search():
    """`now` is the time, `told` what the search has said, `ended` why it cannot go on, `lost` what the cluster says of its node; `step` is
    a round of Tune with trials in these states."""
    search = SimpleNamespace(now=0.0, told=[], ended=[], lost=lambda: False)
    searcher: Any = SimpleNamespace(waits=search.told.append, end=search.ended.append)
    resources = Resources(cpu=2, gpu=0.5)
    callback = StandstillCallback(searcher, resources, is_lost=lambda: search.lost(), clock=lambda: search.now)

    def step(*states, after=0.0):
        search.now += after
        callback.on_step_end(1, [SimpleNamespace(status=state) for state in states])

    search.step = step
    return search


def test_trials_that_wait_too_long_are_told_once_and_so_is_their_end(search):
    search.step("TERMINATED", "PENDING")
    search.step("TERMINATED", "PENDING", after=_STANDSTILL_SECONDS - 1)
    assert search.told == []
    for _ in range(3):
        search.step("TERMINATED", "PENDING", after=10)
    assert search.told == ["no trial runs: waiting for a node with 2 CPUs and 0.5 GPUs free, or for a worker to start there"]
    for _ in range(3):
        search.step("TERMINATED", "RUNNING", "PENDING", after=10)
    assert search.told[1:] == [None]


def test_a_search_with_a_trial_that_runs_or_none_that_waits_does_not_stand_still(search):
    for states in (("RUNNING", "PENDING"), ("TERMINATED",), ()):
        search.step(*states)
        search.step(*states, after=10 * _STANDSTILL_SECONDS)
    search.step("PENDING")
    search.step("RUNNING", after=_STANDSTILL_SECONDS - 1)
    search.step("PENDING", after=1)
    search.step("PENDING", after=_STANDSTILL_SECONDS - 1)
    assert search.told == []


def test_a_search_whose_own_node_is_lost_in_two_looks_in_a_row_ends_once_no_trial_runs(search):
    looks, lost = [], iter([True, False, True, True])
    search.lost = lambda: looks.append(search.now) or next(lost)
    for _ in range(3):
        search.step("RUNNING", after=100)
    assert looks == []
    search.step("PENDING")
    for _ in range(12):
        search.step("PENDING", after=5)
    assert len(looks) == 3
    assert not search.ended
    for _ in range(5):
        search.step("PENDING", after=1)
    assert len(looks) == 4
    assert "has lost the node that this search is connected to" in str(search.ended[0])
    assert isinstance(search.ended[0], UnavailableError)


def test_a_cluster_that_does_not_answer_is_no_lost_node(search):
    looks = []

    def sometimes_fails():
        looks.append(search.now)
        if len(looks) % 2:
            raise RayError("the head is away")
        return True

    search.lost = sometimes_fails
    search.step("PENDING")
    for _ in range(4):
        search.step("PENDING", after=2 * _STANDSTILL_SECONDS)
    assert len(looks) == 4
    assert search.told and not search.ended


def test_two_looks_with_a_trial_that_ran_in_between_are_not_in_a_row(search):
    looks = []
    search.lost = lambda: looks.append(search.now) or True
    for _ in range(2):
        search.step("PENDING")
        search.step("PENDING", after=_STANDSTILL_SECONDS + 1)
        search.step("RUNNING", after=1)
    assert len(looks) == 2
    assert not search.ended


ONE_SLOT = Slots(Resources(), most=9, concurrency=None, follows=False, nodes=lambda: [Node(cpus=1.0)])


@contextlib.contextmanager
def searching(folder, slots: Slots = ONE_SLOT, **changes: Any):
    """`suggest` and `lose`, with Ray's error in the file in which Tune leaves it; and the search's store. `nodes` is what the cluster says
    of nodes by their ids; a worker is lost on the node `own`."""
    with Store(default_url(str(folder))) as store:
        job = make_job(str(folder), budgets=(Budget.parse("80%"),), **changes)
        coordinator = make_coordinator(job, store, folder)
        searcher = CoordinatorSearcher(coordinator, slots, {})
        loss, nodes, clock = LossInTelling(), {"own": NodeState.ALIVE}, SimpleNamespace(now=0.0)

        def judge(node_id: str | None) -> NodeVerdict:
            return NodeVerdict(node_id, state=lambda node_id: nodes[node_id], own=lambda: "driver", clock=lambda: clock.now)

        callback = LostWorkerCallback(searcher, loss, judge=judge)

        def begin_to_lose(error: str) -> None:
            (folder / "error.txt").write_text(error)
            searcher.on_trial_complete("tune", error=True)
            trial = SimpleNamespace(trial_id="tune", error_file=str(folder / "error.txt"))
            with loss.on("own"):
                callback.on_trial_error(1, [], trial)

        def step(after: float) -> None:
            clock.now += after
            callback.on_step_end(1, [SimpleNamespace(status="PENDING")])

        def lose(error: str) -> None:
            """The node stays what it is."""
            begin_to_lose(error)
            for _ in range(30):
                step(1.0)

        yield SimpleNamespace(
            suggest=lambda: searcher.suggest("tune"),
            begin_to_lose=begin_to_lose,
            step=step,
            lose=lose,
            nodes=nodes,
            clock=clock,
            store=store,
            job=job,
            searcher=searcher,
            coordinator=coordinator,
        )


LEFT = f"ray::ResourceTrainable.train()\n{PreemptedError.__module__}.PreemptedError: the trial leaves its node after step 3"
GONE = "The actor died because its node has died. Node Id: 1234\n\tthe actor's node was terminated unexpectedly"
DIED = "The actor died unexpectedly before finishing this task."


@pytest.mark.faults
@pytest.mark.parametrize(
    ("error", "node", "tries"),
    [
        (LEFT, NodeState.ALIVE, None),
        # Ray's error names the death that it has heard of first, whatever became of the node.
        *((error, node, None) for error in (GONE, DIED) for node in (NodeState.LOST, NodeState.DRAINING)),
        (GONE, NodeState.ALIVE, RETRIES),
        (DIED, NodeState.ALIVE, RETRIES),
        ("The actor 12 is unavailable: keepalive. The task may or may not have been executed.", NodeState.ALIVE, RETRIES),
    ],
)
def test_a_lost_worker_is_a_try_of_its_trial_and_a_lost_node_never_is(
    tmp_path, error: str, node: NodeState, tries: int | None
) -> None:
    with searching(tmp_path) as search:
        search.nodes["own"] = node
        first = search.suggest()
        for _ in range(25 if tries is None else tries):
            search.lose(error)
            assert search.suggest()["trial_number"] == first["trial_number"]
        result = search.store.trials(search.job.id)[0]
        assert result.state is TrialState.RUNNING
        search.lose(error)
        result = search.store.trials(search.job.id)[0]
        assert (result.state is TrialState.FAILED) is (tries is not None)


def test_a_node_whose_disk_is_full_gets_no_trial_and_costs_none_a_try(tmp_path) -> None:
    nodes = [Node(cpus=1.0, id="3fa9"), Node(cpus=1.0, id="77b0")]
    slots = Slots(Resources(), most=9, concurrency=None, follows=True, nodes=lambda: nodes)
    with searching(tmp_path, slots=slots) as search:
        first = search.suggest()
        assert (first["full_nodes"], slots.running) == ([], 2)
        for _ in range(RETRIES + 5):
            search.lose(f"Traceback\n{FullDisk('/scratch', 'gpu-7', '3fa9').error()}")
            again = search.suggest()
            assert (again["trial_number"], again["full_nodes"], slots.running) == (first["trial_number"], ["3fa9"], 1)
        assert search.store.trials(search.job.id)[0].state is TrialState.RUNNING
        search.lose(f"Traceback\n{FullDisk('/data', 'gpu-8', '77b0').error()}")
        assert search.suggest() == "FINISHED"
        assert str(search.coordinator.fatal) == (
            "the disk is full at /data on node gpu-8 (77b0); free some space and continue with --resume"
        )
        # Not its fault: it is run again.
        assert search.store.trials(search.job.id)[0].state is TrialState.RUNNING


def test_a_full_disk_that_all_nodes_share_ends_the_search(tmp_path) -> None:
    nodes = [Node(cpus=1.0, id="3fa9"), Node(cpus=1.0, id="77b0")]
    with searching(tmp_path, slots=Slots(Resources(), most=9, concurrency=None, follows=True, nodes=lambda: nodes)) as search:
        search.suggest()
        search.lose(f"Traceback\n{FullDisk('/runs/flowers').error()}")
        assert search.suggest() == "FINISHED"
        assert str(search.coordinator.fatal) == "the disk is full at /runs/flowers; free some space and continue with --resume"


def test_a_full_disk_that_a_trials_error_tells_of_is_not_said_to_be_the_drivers(tmp_path) -> None:
    with searching(tmp_path) as search:
        search.suggest()
        text = "Traceback\nOSError: [Errno 28] No space left on device"
        search.searcher.on_trial_complete("tune", {"error_class": "OSError", "error": text})
        assert isinstance(search.coordinator.fatal, DiskFullError)
        assert str(search.coordinator.fatal).startswith("a disk is full where trial 0 ran: OSError: [Errno 28] No space left")
        assert search.store.trials(search.job.id)[0].state is TrialState.RUNNING


def test_a_lost_trial_that_is_the_only_one_is_decided_where_tune_asks_for_the_next(tmp_path) -> None:
    """Tune ends no step of its loop meanwhile."""
    with searching(tmp_path) as search:
        first = search.suggest()
        search.begin_to_lose(DIED)
        for _ in range(5):
            search.clock.now += 1.0
            assert search.suggest() is None
        search.nodes["own"] = NodeState.LOST
        search.clock.now += 1.0
        assert search.suggest()["trial_number"] == first["trial_number"]
        search.begin_to_lose(DIED)
        search.searcher.end(UnavailableError("the head is gone"))
        assert search.suggest() == "FINISHED"


def test_a_head_that_restarts_does_not_end_a_search_that_meets_a_full_disk(tmp_path) -> None:
    nodes = [Node(cpus=1.0, id="3fa9"), Node(cpus=1.0, id="77b0")]

    def answer() -> list[Node]:
        if not nodes:
            raise RpcError("the head restarts")
        return nodes

    with searching(tmp_path, slots=Slots(Resources(), most=9, concurrency=None, follows=True, nodes=answer)) as search:
        first = search.suggest()
        nodes.clear()
        search.lose(f"Traceback\n{FullDisk('/scratch', 'gpu-7', '3fa9').error()}")
        again = search.suggest()
        assert (again["trial_number"], again["full_nodes"]) == (first["trial_number"], ["3fa9"])


@pytest.mark.faults
def test_a_trial_keeps_its_place_until_the_head_has_had_the_time_to_notice_that_the_node_is_gone(tmp_path) -> None:
    with searching(tmp_path) as search:
        first = search.suggest()
        for _ in range(RETRIES + 1):
            search.begin_to_lose(DIED)
            search.step(15.0)
            assert search.searcher.suggest("other") is None
            search.nodes["own"] = NodeState.LOST
            search.step(1.0)
            assert search.suggest()["trial_number"] == first["trial_number"]
            search.nodes["own"] = NodeState.ALIVE
        assert search.store.trials(search.job.id)[0].state is TrialState.RUNNING


def test_what_a_trial_says_before_it_trains_is_told_and_is_no_report(tmp_path) -> None:
    with searching(tmp_path) as search:
        number, told = search.suggest()["trial_number"], []
        search.coordinator.callbacks = (
            SimpleNamespace(on_trial_opening=lambda result, line: told.append((result.number, line))),
        )
        assert search.searcher.report("tune", {"told": "node 10.0.0.7: preparing images: 4 of 9"})
        assert told == [(number, "node 10.0.0.7: preparing images: 4 of 9")]
        assert not search.store.epochs(search.job.id, number)


def test_no_trial_is_given_beyond_the_slots_and_none_is_final_while_one_runs(tmp_path) -> None:
    with searching(tmp_path, trials=1, final_share=0.0) as search:
        assert search.suggest() is not None
        assert search.searcher.suggest("other") is None
        assert not search.searcher.wants_more()
        search.lose(LEFT)
        # The search has no further trial, but this one has to be run again.
        again = search.suggest()
        assert again["trial_number"] == 0
        search.searcher.on_trial_complete("tune", {"error_class": "DivergedError", "error": "the loss is nan"})
        assert search.suggest() == "FINISHED"


def test_a_search_that_is_ended_gives_no_trial_any_more_and_has_its_first_error(tmp_path) -> None:
    with searching(tmp_path) as search:
        assert not search.searcher.over
        search.searcher.end(UnavailableError("its node is lost"))
        search.searcher.end(UnavailableError("it still is"))
        assert search.searcher.over
        assert search.suggest() == "FINISHED"
        assert str(search.coordinator.fatal) == "its node is lost"


def lose_worker(folder, error: RayError):
    """The first trial of a search, whose worker is lost with this error in every try; and whether the next attempt runs it again."""
    with searching(folder) as search:
        store, job = search.store, search.job
        number = search.suggest()["trial_number"]
        try:
            raise error
        except RayError:
            text = traceback.format_exc()
        for _ in range(RETRIES):
            search.lose(text)
            assert search.suggest()["trial_number"] == number
        search.lose(text)
        (result,) = [trial for trial in store.trials(job.id) if trial.number == number]
        store.begin_attempt(job.id)
        again = [trial.result.number for trial in TrialIndex(store, job.id).unfinished]
        return result, again == [number]


@pytest.mark.faults
def test_a_trial_that_was_ended_for_memory_says_so_and_what_needs_less(tmp_path):
    result, again = lose_worker(tmp_path, OutOfMemoryError("Task was killed due to the node running low on memory."))
    assert (result.state, result.error_class) == (TrialState.FAILED, ErrorClass.OUT_OF_MEMORY)
    assert "node running low on memory" in result.error
    last = result.error.splitlines()[-1]
    assert last.startswith("the trial was ended for memory")
    assert "--batch-size" in last
    assert again


def test_memory_is_the_reason_in_the_text_that_tune_keeps(tmp_path):
    with searching(tmp_path) as search:
        number = search.suggest()["trial_number"]
        for tries in range(RETRIES + 1):
            assert search.store.trials(search.job.id)[number].state is TrialState.RUNNING
            search.lose(str(as_actor_error(OutOfMemoryError("Task was killed due to the node running low on memory."))))
            if tries < RETRIES:
                assert search.suggest()["trial_number"] == number
        result = search.store.trials(search.job.id)[number]
        assert (result.state, result.error_class) == (TrialState.FAILED, ErrorClass.OUT_OF_MEMORY)


def test_a_trial_that_hangs_in_every_try_says_so_and_where_the_stacks_are(tmp_path):
    with searching(tmp_path) as search:
        for _ in range(RETRIES + 1):
            trial = search.suggest()
            note = StallNote.of_trial(Path(trial["trial_folder"]), NO_MIRROR)
            note.write("stalled: no step for 60.1 minutes")
            search.lose(DIED)
        result = search.store.trials(search.job.id)[trial["trial_number"]]
        assert (result.state, result.error_class) == (TrialState.FAILED, ErrorClass.WORKER_LOST)
        found = note.read()
        assert found is not None
        assert result.error.splitlines()[-1] == found.sentence


def test_the_note_of_a_try_that_hung_is_no_reason_of_the_next_one_that_is_lost_with_its_node_before_it_begins(tmp_path):
    with searching(tmp_path) as search:
        trial = search.suggest()
        StallNote.of_trial(Path(trial["trial_folder"]), NO_MIRROR).write("stalled: no step for 60.1 minutes")
        search.lose(DIED)
        search.nodes["own"] = NodeState.LOST
        for _ in range(RETRIES + 1):
            assert search.suggest()["trial_number"] == trial["trial_number"]
            search.lose(GONE)
        assert search.store.trials(search.job.id)[trial["trial_number"]].state is TrialState.RUNNING


def test_a_trial_whose_worker_was_lost_otherwise_does_not_speak_of_memory(tmp_path):
    result, again = lose_worker(tmp_path, ActorDiedError())
    assert result.error_class == ErrorClass.WORKER_LOST
    assert "memory" not in result.error.splitlines()[-1]
    assert again
