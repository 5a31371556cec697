"""The nodes of the Ray cluster, as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray._private.state import state as ray_state

from workers.search.resources import Node

_NODE_ID = "ray.io/node-id"
"""A label that Ray gives each node."""


def draining_nodes() -> frozenset[str]:
    """Ids of the nodes that are told to end: by `ray drain-node`, by an autoscaler, or by SIGTERM to `ray start --block`, which is how
    Kubernetes ends a pod. Ray places nothing on them any more."""
    return frozenset(ray_state.get_draining_nodes())


def own_node_is_lost() -> bool:
    """Whether the cluster counts the node as dead that this driver is connected to, or does not know it, as a head that has come back
    without its state. Ray has ended all that the driver had running, and refuses whatever else it asks for, but does not end the driver."""
    own = ray.get_runtime_context().get_node_id()
    return not any(node["NodeID"] == own and node["Alive"] for node in ray.nodes())


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
