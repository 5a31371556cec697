"""Ray nodes on one machine, with token authentication: a head without work, and one worker for drivers and trials, or two."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.search.cluster import NICENESS, ONE_MACHINE
from workers.service.background_program import Program
from workers.service.executor import RESOURCE
from workers.service.niceness import give_way
from workers.service.settings import DriverSettings

# On any other address Ray's processes listen on every interface, and its metrics answer without a token.
_LOOPBACK = "127.0.0.1"
# Bytes: images are read from memory-mapped files, so that the object store has messages only.
_OBJECT_STORE = 100 * 2**20


@dataclasses.dataclass(frozen=True)
class RayNodes:
    """`port` is the head's, the next one the dashboard's; nine ports from the head's on are used, or twelve with a worker for trials alone.
    `token` is a file.

    `address` is the nodes'. The worker for drivers may have another one, in a network that `worker_wrapper` starts it in, a command before
    its own.
    """

    folder: Path
    port: int
    token: Path
    python: str
    address: str = _LOOPBACK
    worker_address: str = _LOOPBACK
    worker_wrapper: Sequence[str] = ()

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def head(self) -> Program:
        return Program("ray-head", self.folder)

    @property
    def worker(self) -> Program:
        return Program("ray-worker", self.folder)

    @property
    def trial_worker(self) -> Program:
        return Program("ray-trial-worker", self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process that connects to this cluster."""
        login = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        # Without it, Ray replaces the loopback address by the machine's external one.
        loopback = {ONE_MACHINE: "0"} if self.address == _LOOPBACK else {}
        return {**login, **loopback, "RAY_USAGE_STATS_ENABLED": "0"}

    def start_head(self, environment: Mapping[str, str] | None = None, *, resume: bool = False) -> None:
        """`resume` is for a head that was killed and keeps its state (`RAY_gcs_storage` in `environment`): it needs its former folder."""
        file = self.folder / "scratch"
        # Short, since Ray creates sockets in it: a socket's path has at most 107 characters.
        scratch = file.read_text() if resume else tempfile.mkdtemp(prefix="asr-", dir="/tmp")  # nosec B108
        self.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(scratch)
        # Where the former head has said that it runs: as long as a node on this machine waits for it, Ray refuses a second one there.
        (Path(scratch) / "ray_current_cluster").unlink(missing_ok=True)
        options = ["--head", f"--node-ip-address={self.address}", f"--port={self.port}", "--dashboard-host=127.0.0.1"]
        options += [f"--dashboard-port={self.port + 1}", f"--ray-client-server-port={self.port + 2}", f"--temp-dir={scratch}"]
        # No trial on the head: one that exhausts the memory would take the whole cluster down.
        options += ["--num-cpus=0", "--num-gpus=0", *self._agent(self.port + 3)]
        self.head.start(self._command(options), {**(environment or {}), **self.environment})

    def start_worker(self, environment: Mapping[str, str], *, cpus: int) -> int:
        """The id of its process. Needs a head that answers: starting both at once exceeds Ray's limit of 30 s. Drivers and trials inherit
        `environment`. They run at the node's priority; Ray would let trials give way to everything else on the machine. Without `cpus` it
        runs drivers only.
        """
        options = [
            f"--node-ip-address={self.worker_address}",
            "--resources",
            json.dumps({RESOURCE: 1}),
            *self._agent(self.port + 6),
        ]
        command = [*self.worker_wrapper, *self._joining(options, cpus=cpus)]
        return self.worker.start(command, self._of_worker(environment))

    def start_trial_worker(self, environment: Mapping[str, str], *, cpus: int) -> int:
        """As `start_worker`, for a node on which no driver runs."""
        options = [f"--node-ip-address={self.address}", *self._agent(self.port + 9)]
        return self.trial_worker.start(self._joining(options, cpus=cpus), self._of_worker(environment))

    def let_give_way(self, worker: int) -> None:
        """Gives the node whose process is `worker` the priority of a service's drivers without a cluster. Not before it is among `nodes`:
        beside other work a node of that priority can need longer for its start than Ray's limit."""
        give_way(worker, DriverSettings.model_fields["niceness"].default)

    def nodes(self) -> int:
        """The number of nodes that are alive; 0 where the dashboard does not answer."""
        return len(self.alive())

    def ids(self) -> set[str]:
        """Of the nodes that are alive. The head counts a node that was killed among them for up to half a minute."""
        return {node["node_id"] for node in self.alive()}

    def alive(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as Ray's API describes them; none where the dashboard does not answer."""
        request = urllib.request.Request(f"{self.dashboard}/api/v0/nodes")  # noqa: S310 - http, of our own address
        request.add_header("Authorization", f"Bearer {self.token.read_text().strip()}")
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310  # nosec B310
                found = json.load(reply)["data"]["result"]["result"]
        # HTTPException: while nobody listens on the port, Linux may connect a client to itself, which then reads its own request.
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            TimeoutError,
            ConnectionError,
            KeyError,
            TypeError,
            json.JSONDecodeError,
        ):
            return []
        return [node for node in found if node["state"] == "ALIVE"]

    def stop(self) -> None:
        self.trial_worker.stop()
        self.worker.stop()
        self.head.stop()
        scratch = self.folder / "scratch"
        if scratch.exists():
            shutil.rmtree(scratch.read_text(), ignore_errors=True)
            scratch.unlink()

    def _command(self, options: list[str]) -> list[str]:
        # The same as Ray's own command, for all nodes (`ray_start`).
        start = [self.python, str(Path(__file__).with_name("ray_start.py"))]
        # Ray's default range of worker ports may contain one of ours; 0 means any free port.
        ports = ["--min-worker-port=0", "--max-worker-port=0"]
        return [*start, "--block", f"--object-store-memory={_OBJECT_STORE}", "--disable-usage-stats", *ports, *options]

    def _joining(self, options: list[str], *, cpus: int) -> list[str]:
        return self._command([f"--address={self.address}:{self.port}", f"--num-cpus={cpus}", *options])

    def _of_worker(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {**environment, NICENESS: os.environ.get(NICENESS, "0"), **self.environment}

    def _agent(self, port: int) -> list[str]:
        """The ports of a node's agent; nodes on one machine cannot all have the defaults."""
        return [
            f"--dashboard-agent-listen-port={port}",
            f"--dashboard-agent-grpc-port={port + 1}",
            f"--metrics-export-port={port + 2}",
        ]


def cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
