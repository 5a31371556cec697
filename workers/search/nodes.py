"""The nodes of the Ray cluster, as they are now."""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray._private.state import state as ray_state
from ray.exceptions import RayError

from workers.search.resources import Node

_log = logging.getLogger(__name__)

_NODE_ID = "ray.io/node-id"
"""A label that Ray gives each node."""


class NodeState(enum.Enum):
    """What the cluster says of a node."""

    ALIVE = enum.auto()
    DRAINING = enum.auto()
    """It is told to end."""
    LOST = enum.auto()
    """It has ended, cannot be reached, or is not known, as to a head that has come back without its state."""


def draining_nodes() -> frozenset[str]:
    """Ids of the nodes that are told to end: by `ray drain-node`, by an autoscaler, or by SIGTERM to `ray start --block`, which is how
    Kubernetes ends a pod. Ray places nothing on them any more."""
    return frozenset(ray_state.get_draining_nodes())


def node_state(node_id: str) -> NodeState:
    """Of the node with this id. One that ends without notice is alive until the head misses its answers, 15 s or so.

    Raises:
        RayError: the head does not answer.
    """
    if not _is_alive(node_id):
        return NodeState.LOST
    return NodeState.DRAINING if node_id in draining_nodes() else NodeState.ALIVE


def _is_alive(node_id: str) -> bool:
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


def own_node() -> str:
    """The id of the node that this driver is connected to."""
    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id


def own_node_is_lost() -> bool:
    """Whether the cluster has lost the node that this driver is connected to. Ray has ended all that the driver had running, and refuses
    whatever else it asks for, but does not end the driver."""
    return not _is_alive(own_node())


def node_of_place(group: Any) -> str | None:
    """The id of the node that has the one bundle of a placement group; None where Ray does not say."""
    try:
        table = ray.util.placement_group_table(group)
    except RayError as error:
        _log.warning("cannot ask Ray where a trial is placed: %s", error)
        return None
    # A group whose node is lost has none until it has another one.
    return table.get("bundles_to_node_id", {}).get(0) or None


def elsewhere(nodes: Sequence[str]) -> dict[str, Any]:
    """What a placement group with one bundle is made with, so that it is on none of the nodes of these ids."""
    return {"bundle_label_selector": [{_NODE_ID: f"!in({','.join(nodes)})"}]} if nodes else {}


def usable_nodes() -> tuple[Node, ...]:
    """The nodes that are alive and are not told to end."""
    draining = draining_nodes()
    return tuple(
        Node(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0), id=node["NodeID"])
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in draining
    )
