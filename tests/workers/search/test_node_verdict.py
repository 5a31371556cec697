"""Whether a worker was lost with its node, by what the cluster says of the node."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ray.exceptions import RpcError

from workers.search.node_verdict import _SETTLE_SECONDS, _UNANSWERED_SECONDS, NodeVerdict
from workers.search.nodes import NodeState


class Cluster:
    """What it says of the node `lost`, with a clock that only waiting moves. The driver is on the node `own`."""

    def __init__(self, says: Callable[[float], NodeState]) -> None:
        self.now, self.asked, self._says = 0.0, 0, says

    def state(self, node_id: str) -> NodeState:
        self.asked += 1
        return self._says(self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def verdict(self) -> NodeState:
        return NodeVerdict("lost", state=self.state, own=lambda: "own", clock=lambda: self.now).wait(self.sleep)


def test_a_node_that_stays_alive_as_long_as_the_head_takes_to_notice_is_alive() -> None:
    cluster = Cluster(lambda now: NodeState.ALIVE)
    assert cluster.verdict() is NodeState.ALIVE
    assert cluster.now == _SETTLE_SECONDS


@pytest.mark.parametrize("state", [NodeState.LOST, NodeState.DRAINING])
def test_a_node_that_is_gone_or_leaves_is_known_as_soon_as_the_head_knows_it(state: NodeState) -> None:
    cluster = Cluster(lambda now: NodeState.ALIVE if now < 13 else state)
    assert cluster.verdict() is state
    assert cluster.now == 13


def test_a_head_that_does_not_answer_is_asked_again_and_has_its_time_from_its_first_answer() -> None:
    def says(now: float) -> NodeState:
        if 5 <= now < 40:
            raise RpcError("the head restarts")
        return NodeState.ALIVE

    cluster = Cluster(says)
    assert cluster.verdict() is NodeState.ALIVE
    assert cluster.now == 40 + _SETTLE_SECONDS


def test_a_head_that_stays_away_does_not_keep_the_search_waiting() -> None:
    def says(now: float) -> NodeState:
        if now >= 5:
            raise RpcError("the head is gone")
        return NodeState.ALIVE

    cluster = Cluster(says)
    assert cluster.verdict() is NodeState.LOST
    assert cluster.now == 5 + _UNANSWERED_SECONDS


def test_looks_in_quick_succession_ask_once() -> None:
    cluster = Cluster(lambda now: NodeState.ALIVE)
    verdict = NodeVerdict("lost", state=cluster.state, own=lambda: "own", clock=lambda: cluster.now)
    for _ in range(5):
        assert verdict.look() is None
        cluster.now += 0.1
    assert cluster.asked == 1


def test_a_node_that_nobody_knows_is_not_asked_for() -> None:
    cluster = Cluster(lambda now: NodeState.LOST)
    assert NodeVerdict(None, state=cluster.state).look() is NodeState.ALIVE
    assert cluster.asked == 0


@pytest.mark.parametrize("state", list(NodeState))
def test_the_drivers_own_node_is_what_the_cluster_says_at_once(state: NodeState) -> None:
    """A search on one machine loses no time over a worker."""
    cluster = Cluster(lambda now: state)
    assert NodeVerdict("own", state=cluster.state, own=lambda: "own").look() is state
