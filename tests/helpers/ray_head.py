"""Ray's local cluster of several nodes, which Ray has for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from helpers.databases import free_port
from ray.cluster_utils import Cluster


@contextlib.contextmanager
def ray_head(*, cpus: int) -> Iterator[Cluster]:
    """A cluster of a head with so many CPUs for trials; it needs `RAY_AUTH_MODE=disabled`."""
    # Without a dashboard, too, Ray tries whether the dashboard's port is free. Where another Ray of the machine has it, the socket that was
    # tried stays open, which is an error in a test.
    options = {"num_cpus": cpus, "include_dashboard": False, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        yield cluster
    finally:
        cluster.shutdown()
