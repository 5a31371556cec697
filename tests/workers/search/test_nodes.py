"""What is read from Ray's list of nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workers.search import nodes
from workers.search.nodes import own_node_is_lost

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
