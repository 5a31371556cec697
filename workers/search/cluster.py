"""A Ray cluster to run on: one of this machine's own, on loopback, or a running one by its address."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.job_config import JobConfig

from autoslim.core.job import Resources
from autoslim.errors import ClusterError

_KNOCK_SECONDS = 8.0
_OBJECT_STORE = 100 * 2**20
"""Bytes. Images travel through memory-mapped files, so that Ray's object store carries messages only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """`dashboard` is an address in a browser, or None; `login` says how to get in."""

    address: str
    dashboard: str | None
    login: str
    cpus: float
    gpus: float

    def share(self) -> Resources:
        """What a trial takes where the user has not said: a GPU and its share of the processors, or one processor."""
        if self.gpus < 1:
            return Resources(cpu=1.0, gpu=0.0)
        return Resources(cpu=float(max(1, int(self.cpus // self.gpus))), gpu=1.0)

    def slots(self, resources: Resources) -> int:
        """How many trials run at a time.

        Raises:
            ClusterError: when not even one fits.
        """
        counts = [have / take for have, take in ((self.cpus, resources.cpu), (self.gpus, resources.gpu)) if take > 0]
        slots = int(min(counts)) if counts else 1
        if slots < 1:
            raise ClusterError(
                f"a trial takes {resources.cpu:g} CPUs and {resources.gpu:g} GPUs, the cluster has {self.cpus:g} and {self.gpus:g}"
            )
        return slots


@contextlib.contextmanager
def connect(address: str | None, *, name: str) -> Iterator[Cluster]:
    """Starts a local Ray (`address` None or `local`) with its dashboard on loopback, or joins the one at `address`.

    `name` is what the dashboard's list of jobs shows.

    Raises:
        ClusterError: when it cannot be reached.
    """
    _quiet()
    if address is not None:
        _knock(address)
    local = address in (None, "local")
    try:
        config = JobConfig(metadata={"job_name": name})
        options = _local_options() if local else _joining_options()
        context = ray.init(address="local" if local else address, job_config=config, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
        where = "start a local Ray" if local else f"reach Ray at {address}"
        raise ClusterError(f"cannot {where}: {error}") from error
    try:
        resources = ray.cluster_resources()
        yield Cluster(
            address=context.address_info["address"],
            dashboard=f"http://{context.dashboard_url}" if context.dashboard_url else None,
            login=_login(),
            cpus=resources.get("CPU", 0.0),
            gpus=resources.get("GPU", 0.0),
        )
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself waits for minutes for an address that nobody listens at."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"cannot reach Ray at {address}: {error.strerror or error}") from error


def _local_options() -> dict[str, object]:
    options: dict[str, object] = {
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "object_store_memory": _OBJECT_STORE,
    }
    shared = Path("/dev/shm")  # noqa: S108 - asked for its size only  # nosec B108
    if not shared.is_dir() or shutil.disk_usage(shared).free < 2 * _OBJECT_STORE:
        # A container has 64 MB there by default; the object store then lies on disk, which messages do not mind.
        options["_plasma_directory"] = "/tmp"  # noqa: S108 - Ray's own default parent  # nosec B108
    return options


def _joining_options() -> dict[str, object]:
    """Of several nodes on one machine Ray would take the head; AUTOSLIM_NODE_IP names the one that a driver belongs to."""
    options: dict[str, object] = {"log_to_driver": False}
    if own := os.environ.get("AUTOSLIM_NODE_IP"):
        options["_node_ip_address"] = own
    return options


def _quiet() -> None:
    """Tune talks to a terminal of its own; the search has one already. A user's own setting wins."""
    for name, value in {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # a failed trial's notice on the board; the search tells it in its own words
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def _login() -> str:
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return "no login"
    return "log in with the token that `ray get-auth-token` prints"
