"""What a service stands on and may lose: its database, its disk, the clock, the nodes of its cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from loopback.postgres import Postgres, find_binaries
from loopback.ray_nodes import RayNodes, cpus

from faults.case import Case, Stage
from faults.service import Service, free_port, until
from faults.user import SPEC

# Seconds. Shorter than a driver's lease (60 s): what is away for longer costs another attempt.
_AWAY = 30.0
# Bytes of the disk that becomes full; a job writes some five million.
_DISK = 256 * 2**20
_HOUR = 3600
_OTHER = SPEC | {"name": "other"}

# The database


def _locked(stage: Stage) -> str:
    """Another process keeps the write lock of the SQLite file."""
    with contextlib.closing(sqlite3.connect(stage.service.root / "autoslim.db", timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        told = _others_meanwhile(stage, _AWAY)
        connection.execute("ROLLBACK")
    return told


class _OnPostgres(Service):
    server: Postgres
    password: str


@contextlib.contextmanager
def _on_postgres(folder: Path) -> Iterator[Service]:
    binaries = find_binaries()
    if binaries is None:
        raise RuntimeError("no PostgreSQL server is installed (Debian: postgresql)")
    # As root the server has a user of its own, who may not enter the case's folder.
    data, password = Path(tempfile.mkdtemp(prefix="autoslim-faults-", dir="/var/tmp")), secrets.token_hex(16)
    server = Postgres(data, port=free_port(), binaries=binaries)
    try:
        server.start(password=password)
        server.create_database("faults", password=password)
        service = _OnPostgres(folder, environment={"AUTOSLIM_STORAGE": server.url("faults", password=password)})
        service.server, service.password = server, password
        with service.running():
            yield service
    finally:
        server.stop("immediate")
        shutil.rmtree(data, ignore_errors=True)


def _database_away(stage: Stage) -> str:
    assert isinstance(stage.service, _OnPostgres)
    stage.service.server.stop("immediate")
    told = _others_meanwhile(stage, _AWAY)
    stage.service.server.start(password=stage.service.password)
    return told


# The disk


@contextlib.contextmanager
def _on_small_disk(folder: Path) -> Iterator[Service]:
    """Its root is a file system in memory, in a namespace of the service's own: that takes no rights."""
    mount = f'mount -t tmpfs -o size={_DISK},mode=700 none "{folder / "root"}" && exec "$0" "$@"'
    with Service(folder, wrapper=("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount)).running() as service:
        # Seen from here, the folder is another one.
        service.root = Path(f"/proc/{service.api.pid}/root{service.root}")
        yield service


def _disk_full(stage: Stage) -> str:
    ballast = stage.service.root / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            # Down to the last byte.
            if not file.write(bytes(2**16)):
                break
    told = _others_meanwhile(stage, _AWAY)
    ballast.unlink()
    return told


# The clock


@contextlib.contextmanager
def _on_a_clock_of_its_own(folder: Path) -> Iterator[Service]:
    folder.mkdir(parents=True, exist_ok=True)
    library, offset = folder / "set_back.so", folder / "clock"
    source = Path(__file__).with_name("set_back.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    offset.write_bytes(struct.pack("q", 0))
    with Service(folder, environment={"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(offset)}).running() as service:
        yield service


def _clock_back(stage: Stage) -> str:
    """In all processes of the service at once, and for good."""
    file = stage.folder / "clock"
    with file.open("r+b") as offset:
        offset.write(struct.pack("q", -_HOUR))
    environment = {**os.environ, "LD_PRELOAD": str(stage.folder / "set_back.so"), "FAULTS_CLOCK": str(file)}
    seen = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"], env=environment, capture_output=True, text=True, check=True
    )
    assert abs(time.time() - float(seen.stdout) - _HOUR) < 60, "the clock was not set"
    return ""


# The nodes


class _OnCluster(Service):
    nodes: RayNodes


@contextlib.contextmanager
def _on_cluster(folder: Path) -> Iterator[Service]:
    """A Ray cluster whose only node has no room for a driver."""
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    nodes = RayNodes(folder / "programs", port=_nine_ports(), token=token, python=sys.executable)
    nodes.start_head()
    try:
        until(lambda: nodes.nodes() == 1 or None, "Ray's head")
        root = folder / "root"
        environment = {**nodes.environment, "AUTOSLIM_ROOT": str(root), "AUTOSLIM_STORAGE": f"sqlite:///{root}/autoslim.db"}
        supervise = ("supervise", "--root", str(root), "--dashboard", nodes.dashboard, "--address", "auto")
        service = _OnCluster(folder, options=("--no-supervisor",), environment=environment, more=(supervise,))
        service.nodes = nodes
        with service.running():
            yield service
    finally:
        nodes.stop()


def _no_node(stage: Stage) -> str:
    """Until the job has been paused, which takes a minute; then the node comes."""
    assert isinstance(stage.service, _OnCluster)
    until(lambda: stage.user.job["state"] == "PAUSED" or None, "a pause")
    root = stage.service.root
    storage = f"sqlite:///{root}/autoslim.db"
    stage.service.nodes.start_worker({"AUTOSLIM_ROOT": str(root), "AUTOSLIM_STORAGE": storage}, cpus=cpus())
    until(lambda: stage.service.nodes.nodes() == 2 or None, "a node for drivers")
    return ""


def _nine_ports() -> int:
    while True:
        first = free_port()
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as stack:
            for port in range(first, first + 9):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def _others_meanwhile(stage: Stage, seconds: float) -> str:
    """What is told to another user who submits while the fault lasts, and to whoever asks for readiness. Their jobs are cancelled."""
    told: dict[str, None] = {}
    deadline = time.monotonic() + seconds
    with httpx.Client(base_url=stage.service.url, timeout=60, trust_env=False) as client:
        while time.monotonic() < deadline:
            for what, method, path, body in (("readiness", "GET", "/readyz", None), ("submit", "POST", "/v1/jobs", _OTHER)):
                try:
                    answer = client.request(method, path, json=body)
                except httpx.HTTPError as error:
                    told.setdefault(f"{what}: no answer ({type(error).__name__})")
                    continue
                told.setdefault(f"{what}: {answer.status_code} {answer.json().get('detail', '')}".strip())
                if what == "submit" and answer.is_success:
                    stage.user.later.append(answer.json()["id"])
            time.sleep(1.0)
    return "; ".join(told)


CASES = [
    Case(f"SQLite locked by another process for {_AWAY:.0f} s", _locked),
    Case(f"PostgreSQL killed, back after {_AWAY:.0f} s", _database_away, host=_on_postgres),
    Case(f"disk full for {_AWAY:.0f} s", _disk_full, host=_on_small_disk),
    Case("clock set back by an hour", _clock_back, host=_on_a_clock_of_its_own),
    Case("no node for the driver until its job is paused", _no_node, host=_on_cluster, early=True),
]
