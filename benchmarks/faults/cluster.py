"""A Ray cluster of a head and a worker node that loses them, or has none for the driver."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import psutil
from loopback.ray_nodes import RayNodes, cpus

from faults.beside import cancel_in
from faults.case import Case, Stage
from faults.service import Service, free_port, until
from workers.service.background_program import Program

# Seconds until a head or a node that was killed is there again. Ray's nodes try to reach a lost head for 60 s.
_AWAY = 20.0


class _OnCluster(Service):
    nodes: RayNodes
    driver_environment: Mapping[str, str]
    head_environment: Mapping[str, str]

    def start_head(self, *, resume: bool = False) -> None:
        self.nodes.start_head(self.head_environment, resume=resume)
        until(lambda: self.nodes.nodes() >= 1 or None, "Ray's head")

    def start_node(self) -> None:
        """The one for drivers and trials."""
        # A node that was killed may be counted still.
        former = self.nodes.ids()
        worker = self.nodes.start_worker(self.driver_environment, cpus=cpus())
        until(lambda: self.nodes.ids() - former or None, "a node for drivers")
        self.nodes.let_give_way(worker)


@contextlib.contextmanager
def _on_cluster(folder: Path, *, node: bool, lasting: bool = False, jobs: int = 1) -> Iterator[Service]:
    """Its head has no room for a driver; `node` is there from the start, `lasting` state survives the head, `jobs` run at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    token, root = folder / "token", folder / "root"
    token.write_text(secrets.token_hex(32))
    nodes = RayNodes(folder / "programs", port=_nine_ports(), token=token, python=sys.executable)
    placed = {"AUTOSLIM_ROOT": str(root), "AUTOSLIM_STORAGE": f"sqlite:///{root}/autoslim.db"}
    supervise = ("supervise", "--root", str(root), "--jobs", str(jobs), "--dashboard", nodes.dashboard, "--address", "auto")
    service = _OnCluster(folder, options=("--no-supervisor",), environment={**nodes.environment, **placed}, more=(supervise,))
    service.nodes, service.driver_environment = nodes, placed
    service.head_environment = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "gcs")} if lasting else {}
    try:
        service.start_head()
        if node:
            service.start_node()
        with service.running():
            yield service
    finally:
        nodes.stop()


def _no_node(stage: Stage) -> str:
    """Until the job and another one have been paused, which takes a minute; the other one is cancelled, and the node comes."""
    assert isinstance(stage.service, _OnCluster)
    cancelled = cancel_in(stage, "PAUSED")
    until(lambda: stage.user.job["state"] == "PAUSED" or None, "a pause")
    stage.service.start_node()
    return cancelled


def _node_killed(stage: Stage) -> str:
    """With the driver and the trials on it."""
    assert isinstance(stage.service, _OnCluster)
    _kill(stage.service.nodes.worker)
    time.sleep(_AWAY)
    stage.service.start_node()
    return ""


def _head_killed(stage: Stage, *, lasting: bool) -> str:
    """The node stays where the head's state is `lasting`; else it is started anew, too, as it cannot join another cluster."""
    service = stage.service
    assert isinstance(service, _OnCluster)
    _kill(service.nodes.head)
    time.sleep(_AWAY)
    if not lasting:
        # Also removes the folder of the former cluster.
        service.nodes.stop()
    service.start_head(resume=lasting)
    if not lasting:
        service.start_node()
    return ""


def _kill(program: Program) -> None:
    """With everything that it has started."""
    leader = psutil.Process(json.loads((program.folder / f"{program.name}.json").read_text())["pid"])
    for process in (leader, *leader.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    until(lambda: None if program.is_alive() else True, f"the end of {program.name}")


def _nine_ports() -> int:
    while True:
        first = free_port()
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as stack:
            for port in range(first, first + 9):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


# Ray takes up to half a minute to notice a loss, and then starts what a cluster is made of: more than a minute.
CASES = [
    Case(
        "no node for the drivers until their jobs are paused, another job cancelled then",
        _no_node,
        host=partial(_on_cluster, node=False, jobs=2),
        early=True,
        # The pause comes after 60 s.
        job="longest",
    ),
    Case(
        f"node of the driver and the trials killed, back after {_AWAY:.0f} s",
        _node_killed,
        host=partial(_on_cluster, node=True),
        job="longest",
    ),
    Case(
        f"Ray's head killed, back after {_AWAY:.0f} s with its state",
        partial(_head_killed, lasting=True),
        host=partial(_on_cluster, node=True, lasting=True),
        job="longest",
    ),
    Case(
        f"Ray's head killed, back after {_AWAY:.0f} s without its state",
        partial(_head_killed, lasting=False),
        host=partial(_on_cluster, node=True),
        job="longest",
    ),
]
