"""What a service stands on and may lose: its database, its disk, the clock."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
from loopback.postgres import Postgres, find_binaries

from faults.case import Case, MissingError, Stage
from faults.leftovers import prefix
from faults.service import Service, free_port
from faults.user import SPEC

AWAY_SECONDS = 30.0
"""Shorter than a search waits for its database (40 s) and than a driver's lease (60 s): what is away for longer costs another attempt."""
# Bytes of the disk that becomes full, and of the enlarged one; a job writes some five million.
_DISK, _LARGER_DISK = 256 * 2**20, 512 * 2**20
_HOUR = 3600

# The database


def _locked(stage: Stage) -> str:
    """Another process keeps the write lock of the SQLite file."""
    with contextlib.closing(sqlite3.connect(stage.service.root / "autoslim.db", timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        told = others_meanwhile(stage, AWAY_SECONDS)
        connection.execute("ROLLBACK")
    return told


class _OnPostgres(Service):
    server: Postgres
    password: str


@contextlib.contextmanager
def postgres_server(password: str) -> Iterator[Postgres]:
    """With an empty database `faults`."""
    binaries = find_binaries()
    if binaries is None:
        raise MissingError("no PostgreSQL server is installed (Debian: postgresql)")
    # As root the server has a user of its own, who may not enter the case's folder.
    data = Path(tempfile.mkdtemp(prefix=prefix(), dir="/var/tmp"))
    server = Postgres(data, port=free_port(), binaries=binaries)
    try:
        server.start(password=password)
        server.create_database("faults", password=password)
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(data, ignore_errors=True)


@contextlib.contextmanager
def _on_postgres(folder: Path) -> Iterator[Service]:
    password = secrets.token_hex(16)
    with postgres_server(password) as server:
        service = _OnPostgres(folder, environment={"AUTOSLIM_STORAGE": server.url("faults", password=password)})
        service.server, service.password = server, password
        with service.running():
            yield service


def _database_away(stage: Stage) -> str:
    assert isinstance(stage.service, _OnPostgres)
    stage.service.server.stop("immediate")
    told = others_meanwhile(stage, AWAY_SECONDS)
    stage.service.server.start(password=stage.service.password)
    return told


# The disk


@contextlib.contextmanager
def _on_small_disk(folder: Path) -> Iterator[Service]:
    """Its root is a file system in memory, in a namespace of the service's own: that takes no rights where the kernel allows it to all."""
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        raise MissingError("this user may make no user and mount namespaces, or there is no `unshare` (Debian: util-linux)")
    mount = f'mount -t tmpfs -o size={_DISK},mode=700 none "{folder / "root"}" && exec "$0" "$@"'
    with Service(folder, wrapper=(*unshare, "sh", "-c", mount)).running() as service:
        # Seen from here, the folder is another one.
        service.root = Path(f"/proc/{service.api.pid}/root{service.root}")
        yield service


def _disk_full(stage: Stage) -> str:
    """What fills it stays; the disk becomes larger, as an operator makes it."""
    with contextlib.suppress(OSError), (stage.service.root / "ballast").open("wb", buffering=0) as file:
        while True:
            # Down to the last byte.
            if not file.write(bytes(2**16)):
                break
    told = others_meanwhile(stage, AWAY_SECONDS)
    _enlarge_disk(stage)
    return told


def _enlarge_disk(stage: Stage) -> None:
    """In the namespaces of the service, as the user that it runs as there."""
    inside = ("nsenter", f"--target={stage.service.api.pid}", "--user", "--mount", "--preserve-credentials")
    remount = ("mount", "-o", f"remount,size={_LARGER_DISK}", "none", str(stage.folder / "root"))
    subprocess.run([*inside, *remount], check=True)


# The clock


@contextlib.contextmanager
def _on_a_clock_of_its_own(folder: Path) -> Iterator[Service]:
    if shutil.which("cc") is None:
        raise MissingError("no C compiler is installed (Debian: gcc)")
    folder.mkdir(parents=True, exist_ok=True)
    library, offset = folder / "set_clock.so", folder / "clock"
    source = Path(__file__).with_name("set_clock.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    offset.write_bytes(struct.pack("q", 0))
    with Service(folder, environment={"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(offset)}).running() as service:
        yield service


def _set_clock(stage: Stage, *, seconds: int) -> str:
    """In all processes of the service at once, and for good."""
    file = stage.folder / "clock"
    with file.open("r+b") as offset:
        offset.write(struct.pack("q", seconds))
    environment = {**os.environ, "LD_PRELOAD": str(stage.folder / "set_clock.so"), "FAULTS_CLOCK": str(file)}
    seen = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"], env=environment, capture_output=True, text=True, check=True
    )
    assert abs(float(seen.stdout) - time.time() - seconds) < 60, "the clock was not set"
    return ""


def others_meanwhile(stage: Stage, seconds: float) -> str:
    """What is told to another user who submits while the fault lasts, and to whoever asks for readiness. Their jobs are cancelled."""
    told: dict[str, None] = {}
    deadline = time.monotonic() + seconds
    with httpx.Client(base_url=stage.service.url, timeout=60, trust_env=False) as client:
        while time.monotonic() < deadline:
            for what, method, path, body in (
                ("readiness", "GET", "/readyz", None),
                ("submit", "POST", "/v1/jobs", SPEC | {"name": stage.other}),
            ):
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
    Case(f"SQLite locked by another process for {AWAY_SECONDS:.0f} s", _locked, job="longer"),
    Case(f"PostgreSQL killed, back after {AWAY_SECONDS:.0f} s", _database_away, host=_on_postgres, job="longer"),
    Case(
        f"disk full for {AWAY_SECONDS:.0f} s, then enlarged",
        _disk_full,
        host=_on_small_disk,
        # Trials fail, too, and the driver starts until there is room.
        job="longest",
    ),
    Case("clock set back by an hour", partial(_set_clock, seconds=-_HOUR), host=_on_a_clock_of_its_own),
    Case("clock set forward by an hour", partial(_set_clock, seconds=_HOUR), host=_on_a_clock_of_its_own),
]
