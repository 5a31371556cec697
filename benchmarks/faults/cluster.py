"""A Ray cluster of a head and one or two worker nodes that loses them, is cut off from one, or has none for the driver."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import psutil
from loopback.ray_nodes import RayNodes, cpus

from faults.beside import cancel_in
from faults.case import Case, MissingError, Stage
from faults.network import Link, namespace
from faults.service import Service, free_port, runs_trial, until
from workers.service.background_program import Program

# Seconds until a head or a node that was killed is there again. Ray's nodes try to reach a lost head for 60 s.
_AWAY = 20.0
# Of the node that is cut off from the head, which counts a node as lost that has not answered for about a minute.
_CUT = 30.0
# A node as a machine of its own: Ray has a driver join the head where it sees the head's processes.
_ALONE = ("unshare", "--mount-proc", "--pid", "--fork", "--kill-child")


class _OnCluster(Service):
    """`apart` says that trials have a node of their own, as in the Helm chart; `link` leads to that of the driver, where it is in a
    network of its own."""

    nodes: RayNodes
    driver_environment: Mapping[str, str]
    head_environment: Mapping[str, str]
    apart: bool
    link: Link | None

    def start_head(self, *, resume: bool = False) -> None:
        self.nodes.start_head(self.head_environment, resume=resume)
        until(lambda: self.nodes.nodes() >= 1 or None, "Ray's head")

    def start_node(self) -> None:
        """The one for drivers, and for trials unless they are `apart`."""
        self._join(lambda: self.nodes.start_worker(self.driver_environment, cpus=0 if self.apart else cpus()), "drivers")

    def start_trial_node(self) -> None:
        # The database is the drivers' alone.
        environment = {"AUTOSLIM_ROOT": str(self.root)}
        self._join(lambda: self.nodes.start_trial_worker(environment, cpus=cpus()), "trials")

    def _join(self, start: Callable[[], int], what: str) -> None:
        # A node that was killed may be counted still.
        former = self.nodes.ids()
        worker = start()
        until(lambda: self.nodes.ids() - former or None, f"a node for {what}")
        self.nodes.let_give_way(worker)


@contextlib.contextmanager
def _on_cluster(
    folder: Path, *, node: bool, apart: bool = False, lasting: bool = False, jobs: int = 1, link: Link | None = None
) -> Iterator[Service]:
    """Its head has no room for a driver; `node` is there from the start, and `apart` another one for the trials; `lasting` state survives
    the head, `jobs` run at a time; the node is at the other end of `link`."""
    folder.mkdir(parents=True, exist_ok=True)
    token, root = folder / "token", folder / "root"
    token.write_text(secrets.token_hex(32))
    nodes = RayNodes(folder / "programs", port=_twelve_ports(), token=token, python=sys.executable)
    if link is not None:
        inside = ("ip", "netns", "exec", link.name, *_ALONE)
        nodes = dataclasses.replace(nodes, address=link.here, worker_address=link.there, worker_wrapper=inside)
    placed = {"AUTOSLIM_ROOT": str(root), "AUTOSLIM_STORAGE": f"sqlite:///{root}/autoslim.db"}
    supervise = ("supervise", "--root", str(root), "--jobs", str(jobs), "--dashboard", nodes.dashboard, "--address", "auto")
    service = _OnCluster(folder, options=("--no-supervisor",), environment={**nodes.environment, **placed}, more=(supervise,))
    service.nodes, service.driver_environment, service.apart, service.link = nodes, placed, apart, link
    service.head_environment = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "gcs")} if lasting else {}
    with contextlib.ExitStack() as stack:
        stack.callback(nodes.stop)
        if link is not None:
            # SIGTERM does not reach it through `unshare`.
            stack.callback(lambda: _kill(nodes.worker) if nodes.worker.is_alive() else None)
        service.start_head()
        if node:
            service.start_node()
        if apart:
            service.start_trial_node()
        with service.running():
            yield service


@contextlib.contextmanager
def _on_cluster_over_link(folder: Path) -> Iterator[Service]:
    """The node is in a network of its own. For the head's address there, Ray listens on every interface; its token guards it."""
    if shutil.which(_ALONE[0]) is None or subprocess.run([*_ALONE, "true"], capture_output=True).returncode:
        raise MissingError("this user may make no process namespaces, or there is no `unshare` (Debian: util-linux)")
    with namespace() as name:
        link = Link(name, 3)
        link.make()
        # Ray finds a node's own address by a route to an address of the Internet.
        link.lead_everywhere()
        with _on_cluster(folder, node=True, link=link) as service:
            yield service


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


def _trial_node_killed(stage: Stage) -> str:
    """The driver is on another node and stays; its trials wait for the node that comes back."""
    service = stage.service
    assert isinstance(service, _OnCluster)
    drivers, trials = service.nodes.worker, service.nodes.trial_worker

    def driver() -> psutil.Process | None:
        return next((process for process in _processes(drivers) if _drives(process, stage.user.job["id"])), None)

    def trial() -> psutil.Process | None:
        return next(filter(runs_trial, _processes(trials)), None)

    begun = until(driver, "the driver on its node")
    until(trial, "a trial on the other node")
    assert begun not in _processes(trials) and not any(map(runs_trial, _processes(drivers))), "driver and trials share a node"
    _kill(trials)
    time.sleep(_AWAY)
    service.start_trial_node()
    until(trial, "a trial on the node that is back")
    assert driver() == begun, "the driver has ended, too"
    return ""


def _node_cut(stage: Stage) -> str:
    """With the driver and the trials on it. The database is on a disk that both sides have."""
    service = stage.service
    assert isinstance(service, _OnCluster) and service.link is not None
    assert _head_answers(service), "the head cannot be reached from its node"
    service.link.cut()
    assert not _head_answers(service), "the head can be reached from the node that was cut off"
    time.sleep(_CUT)
    service.link.mend()
    until(lambda: _head_answers(service) or None, "the head's answer to its node")
    return ""


def _head_answers(service: _OnCluster) -> bool:
    """To its node in the other network."""
    assert service.link is not None
    code = f"import socket; socket.create_connection(({service.link.here!r}, {service.nodes.port}), timeout=3)"
    inside = ("ip", "netns", "exec", service.link.name)
    return subprocess.run([*inside, sys.executable, "-c", code], capture_output=True).returncode == 0


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
    for process in _processes(program):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    until(lambda: None if program.is_alive() else True, f"the end of {program.name}")


def _processes(program: Program) -> list[psutil.Process]:
    """The program's own first, then all that it has started: of a node, its workers and drivers, too."""
    leader = psutil.Process(json.loads((program.folder / f"{program.name}.json").read_text())["pid"])
    return [leader, *leader.children(recursive=True)]


def _drives(process: psutil.Process, job_id: str) -> bool:
    """Whether it is a driver of this job, not the shell that Ray runs it in."""
    try:
        return {"workers.service.attempt", job_id} <= set(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _twelve_ports() -> int:
    while True:
        first = free_port()
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as stack:
            for port in range(first, first + 12):
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
        f"node of the trials killed, back after {_AWAY:.0f} s",
        _trial_node_killed,
        host=partial(_on_cluster, node=True, apart=True),
        # The same driver goes on, with trials that lose less than an epoch.
        job="longer",
        attempts=1,
    ),
    Case(
        f"node of the driver and the trials cut off from Ray's head for {_CUT:.0f} s",
        _node_cut,
        host=_on_cluster_over_link,
        # The same node goes on, and its driver.
        job="longer",
        attempts=1,
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
