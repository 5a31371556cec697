"""How many trials run at a time on a cluster whose nodes join and leave, and how many places an autoscaler is asked for."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from autoslim.core.job import Resources
from workers.search.elastic import FollowClusterCallback
from workers.search.resources import Node
from workers.search.slots import _FULL_SECONDS, _LOOK_EVERY, Slots

ONE_GPU = Resources(cpu=4.0, gpu=1.0)
BIG, SMALL = Node(cpus=32.0, gpus=8.0), Node(cpus=8.0, gpus=1.0)


class Pool:
    """Nodes and a clock that a test sets."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes, self.now = list(nodes), 0.0

    def slots(
        self, resources: Resources = ONE_GPU, *, most: int = 100, concurrency: int | None = None, follows: bool = True
    ) -> Slots:
        return Slots(
            resources, most=most, concurrency=concurrency, follows=follows, nodes=lambda: self.nodes, clock=lambda: self.now
        )


@pytest.mark.parametrize(
    ("nodes", "resources", "most", "concurrency", "running", "missing"),
    [
        ([BIG, SMALL], ONE_GPU, 100, None, 9, 1),
        ([BIG, SMALL], ONE_GPU, 5, None, 5, 0),
        ([BIG, SMALL], ONE_GPU, 100, 4, 4, 0),
        ([BIG, SMALL], ONE_GPU, 100, 12, 9, 3),
        ([BIG, SMALL], ONE_GPU, 10, 12, 9, 1),
        # A trial with eight GPUs is on one node with eight.
        ([BIG, SMALL], Resources(cpu=8.0, gpu=8.0), 100, None, 1, 1),
        # From zero: one trial waits, which is demand itself.
        ([], ONE_GPU, 100, 12, 1, 11),
        ([Node(cpus=4.0)], ONE_GPU, 100, None, 1, 1),
    ],
)
def test_places_are_counted_by_node_and_the_missing_ones_asked_for(
    nodes: list[Node], resources: Resources, most: int, concurrency: int | None, running: int, missing: int
) -> None:
    slots = Pool(*nodes).slots(resources, most=most, concurrency=concurrency)
    assert (slots.running, slots.missing) == (running, missing)


def test_a_node_whose_disk_was_full_gets_trials_again_after_a_while() -> None:
    pool = Pool(dataclasses.replace(BIG, id="big"), dataclasses.replace(SMALL, id="small"), Node(cpus=64.0, id="no GPU"))
    slots = pool.slots()
    assert slots.disk_is_full("big")
    assert (slots.full_nodes, slots.running) == (["big"], 1)
    pool.now = _FULL_SECONDS - 1
    # The one that is left is too small for a trial.
    assert not slots.disk_is_full("small")
    assert slots.full_nodes == ["big", "small"]
    pool.now = _FULL_SECONDS
    assert slots.look()
    assert (slots.full_nodes, slots.running) == (["small"], 8)


def test_a_ray_of_ones_own_stays_as_it_is() -> None:
    pool = Pool(BIG)
    slots = pool.slots(concurrency=12, follows=False)
    pool.nodes, pool.now = [BIG, BIG], 1000.0
    assert not slots.is_time()
    assert (slots.running, slots.missing) == (8, 0)


def test_nodes_that_join_and_leave_change_the_number_at_the_next_look() -> None:
    pool = Pool(SMALL)
    slots = pool.slots()
    for count, changes in ((3, True), (3, False), (0, True), (1, False), (2, True)):
        pool.nodes = [SMALL] * count
        assert not slots.is_time()
        pool.now += _LOOK_EVERY
        assert slots.is_time()
        assert slots.look() is changes
        assert slots.running == max(1, count)


class Following:
    """A search that follows a pool: what it is told, and the places that are asked for."""

    def __init__(self, pool: Pool, *, concurrency: int | None = None) -> None:
        self.pool, self.told, self.asked = pool, list[int](), list[int]()
        self.slots = pool.slots(concurrency=concurrency)
        self.searcher = SimpleNamespace(slots_changed=lambda: self.told.append(self.slots.running), wants_more=lambda: self.wants)
        self.wants = True
        self.callback = FollowClusterCallback(self.searcher, self.slots, SimpleNamespace(hold=self.asked.append))

    def look(self, *states: str) -> None:
        self.pool.now += _LOOK_EVERY
        self.callback.on_step_end(1, [SimpleNamespace(status=state) for state in states])
        # Nothing is asked between two looks.
        self.callback.on_step_end(2, [])


def test_a_search_says_when_another_number_of_trials_runs() -> None:
    following = Following(Pool(SMALL))
    following.look("RUNNING")
    assert following.told == []
    following.pool.nodes = [SMALL] * 3
    following.look("RUNNING")
    following.look("RUNNING")
    following.pool.nodes = [SMALL]
    following.look("RUNNING")
    assert following.told == [3, 1]


def test_places_are_asked_for_while_every_trial_runs_and_more_would_begin() -> None:
    following = Following(Pool(SMALL), concurrency=8)
    following.look("RUNNING", "TERMINATED")
    # Its own placement group is demand, and must not be outrun.
    following.look("RUNNING", "PENDING")
    following.wants = False
    following.look("RUNNING")
    following.callback.on_experiment_end([])
    assert following.asked == [7, 0, 0, 0]
