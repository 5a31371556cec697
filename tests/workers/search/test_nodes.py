"""What is read from Ray's list of nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RpcError

from workers.search import nodes
from workers.search.nodes import NodeState, node_of_place, node_state, own_node_is_lost

OTHER = {"NodeID": "other", "Alive": True}


@pytest.mark.parametrize(
    ("listed", "lost"),
    [
        ([OTHER, {"NodeID": "own", "Alive": True}], False),
        ([OTHER, {"NodeID": "own", "Alive": False}], True),
        # A head that has come back without its state.
        ([OTHER], True),
        ([], True),
    ],
)
def test_the_drivers_own_node_is_lost_unless_the_cluster_has_it_as_alive(
    monkeypatch: pytest.MonkeyPatch, listed: list[dict[str, Any]], lost: bool
) -> None:
    context = SimpleNamespace(get_node_id=lambda: "own")
    monkeypatch.setattr(nodes, "ray", SimpleNamespace(get_runtime_context=lambda: context, nodes=lambda: listed))
    assert own_node_is_lost() is lost


@pytest.mark.parametrize(
    ("listed", "draining", "state"),
    [
        ([OTHER, {"NodeID": "own", "Alive": True}], {"other"}, NodeState.ALIVE),
        ([OTHER, {"NodeID": "own", "Alive": True}], {"own"}, NodeState.DRAINING),
        ([OTHER, {"NodeID": "own", "Alive": False}], {"own"}, NodeState.LOST),
        ([OTHER], set(), NodeState.LOST),
    ],
)
def test_a_node_is_lost_drains_or_is_alive(
    monkeypatch: pytest.MonkeyPatch, listed: list[dict[str, Any]], draining: set[str], state: NodeState
) -> None:
    monkeypatch.setattr(nodes, "ray", SimpleNamespace(nodes=lambda: listed))
    monkeypatch.setattr(nodes, "draining_nodes", lambda: draining)
    assert node_state("own") is state


@pytest.mark.parametrize(
    ("table", "node"),
    [({"bundles_to_node_id": {0: "own"}}, "own"), ({"bundles_to_node_id": {0: ""}}, None), ({}, None)],
)
def test_a_place_is_on_the_node_of_its_bundle(monkeypatch: pytest.MonkeyPatch, table: dict[str, Any], node: str | None) -> None:
    util = SimpleNamespace(placement_group_table=lambda group: table)
    monkeypatch.setattr(nodes, "ray", SimpleNamespace(util=util))
    assert node_of_place("group") == node


def test_a_place_is_on_no_known_node_where_the_head_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(group: str) -> dict[str, Any]:
        raise RpcError("the head restarts")

    monkeypatch.setattr(nodes, "ray", SimpleNamespace(util=SimpleNamespace(placement_group_table=fails)))
    assert node_of_place("group") is None
