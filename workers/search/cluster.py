"""The Ray cluster of a search: a new one on this machine, on loopback, or a running one by its address."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.job_config import JobConfig

from autoslim.core.job import Resources
from autoslim.errors import UnavailableError
from workers.search.nodes import usable_nodes
from workers.search.resources import Node, trials_on_nodes

ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""With the value 0, Ray's address is the loopback address."""
NICENESS = "RAY_worker_niceness"
"""What Ray adds to the niceness of the process that starts it, for its workers."""
_LOOPBACK = ("127.0.0.1", "::1")
"""The addresses at which Ray's processes bind to loopback. At any other, 127.0.0.2 included, they listen on every interface."""
_NO_LOGIN = "no login"
_CONNECT_SECONDS = 8.0
"""For a TCP connection to a cluster's head: long enough for one in another region, short enough to wait for a mistyped address."""
_OBJECT_STORE = 100 * 2**20
"""Bytes. Images are read from files that all trials of a node share, so that Ray's object store carries messages only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """`dashboard` is its URL, or None where it has none; `login` says how to log in there.

    `nodes` are the addresses of its nodes, each with the port of the node's metrics, and `machines` what those have that take new work.
    `joined` is whether it ran before.
    """

    address: str
    dashboard: str | None
    login: str
    cpus: float
    gpus: float
    nodes: Sequence[tuple[str, int]] = ()
    machines: Sequence[Node] = ()
    joined: bool = False

    @property
    def exposure(self) -> str:
        """Who can reach its ports, for `autoslim doctor`."""
        exposed = [f"{address}:{port}" for address, port in self.nodes if address not in _LOOPBACK]
        if not exposed:
            return "listens on this machine's loopback only"
        guard = "the token guards the others" if self.login != _NO_LOGIN else "nothing guards any"
        return (
            f"its nodes listen on every interface: metrics answer everyone without a token ({', '.join(exposed)}), {guard}; "
            "close the ports to other machines"
        )

    def check_fits(self, resources: Resources, *, concurrency: int | None = None) -> None:
        """Checks that a trial of these `resources` has a place on one of the nodes.

        With a `concurrency` that was asked for, a cluster that was joined needs none yet: an autoscaler adds nodes only for what waits.

        Raises:
            UnavailableError: none fits.
        """
        if (self.joined and concurrency is not None) or trials_on_nodes(resources, self.machines) > 0:
            return
        nodes = "a node" if self.joined else "this machine"
        has = sorted({(machine.cpus, machine.gpus) for machine in self.machines})
        have = ", or ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in has) or "nothing, since the cluster has none"
        raise UnavailableError(
            f"a trial takes {resources.cpu:g} CPUs and {resources.gpu:g} GPUs of one node, {nodes} has {have}; allowed: at most what one "
            "node has, set with --resources"
            + ("; for a cluster that grows, say how many trials run at a time with --concurrency" if self.joined else "")
        )


@contextlib.contextmanager
def connect(address: str | None, *, name: str) -> Iterator[Cluster]:
    """Starts a local Ray (`address` None or `local`) with its dashboard on loopback, or joins the one at `address`.

    `name` is the job's name in the dashboard.

    Raises:
        UnavailableError: it cannot be started or reached.
    """
    _silence_ray()
    if address is not None:
        _check_reachable(address)
    local = address in (None, "local")
    try:
        config = JobConfig(metadata={"job_name": name})
        if local:
            # Ray gives its workers a niceness of 15: beside one busy process of this machine's, trials would nearly stand still.
            os.environ.setdefault(NICENESS, "0")
            with _bound_to_loopback():
                context = ray.init(address="local", job_config=config, **_local_options())
        else:
            context = ray.init(address=address, job_config=config, log_to_driver=False)
    except Exception as error:
        # Ray raises the class itself where its node has not started within 30 s, as on a machine with far too much to do.
        if type(error) is not Exception and not isinstance(error, (ValueError, RuntimeError, OSError, RayError)):
            raise
        where = "start a local Ray" if local else f"reach Ray at {address}"
        raise UnavailableError(f"cannot {where}: {error}") from error
    try:
        resources = ray.cluster_resources()
        yield Cluster(
            address=context.address_info["address"],
            dashboard=f"http://{context.dashboard_url}" if context.dashboard_url else None,
            login=_login(),
            cpus=resources.get("CPU", 0.0),
            gpus=resources.get("GPU", 0.0),
            nodes=[(node["NodeManagerAddress"], node["MetricsExportPort"]) for node in ray.nodes() if node["Alive"]],
            machines=usable_nodes(),
            joined=not local,
        )
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises UnavailableError within seconds where nothing listens at `address`; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UnavailableError(f"cannot reach Ray at {address}: {error.strerror or error}") from error


def _local_options() -> dict[str, object]:
    options: dict[str, object] = {
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "object_store_memory": _OBJECT_STORE,
    }
    shared = Path("/dev/shm")  # noqa: S108 - only its size is read  # nosec B108
    if not shared.is_dir() or shutil.disk_usage(shared).free < 2 * _OBJECT_STORE:
        # A container has 64 MB of shared memory by default; then the object store is on disk, which is fast enough for messages.
        options["_plasma_directory"] = "/tmp"  # noqa: S108 - Ray's own default parent  # nosec B108
    return options


@contextlib.contextmanager
def _bound_to_loopback() -> Iterator[None]:
    """A Ray that is started within has this machine's loopback as its address, and listens nowhere else.

    Otherwise its store of the cluster's state (GCS), its raylet and its metrics listen on every interface, the metrics without a token. The
    switch is the one that Ray has for systems on which it supports no clusters. It is read when Ray is imported, by each of its processes.
    """
    before, enabled = os.environ.get(ONE_MACHINE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[ONE_MACHINE], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[ONE_MACHINE]
        else:
            os.environ[ONE_MACHINE] = before


def _silence_ray() -> None:
    """Turns Tune's console output off, because the search has its own (`progress.console`). A user's own setting wins."""
    for name, value in {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # a failed trial's task in the dashboard; the console has its error
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def _login() -> str:
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return _NO_LOGIN
    return "log in with the token that `ray get-auth-token` prints"
