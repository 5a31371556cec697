"""`make cluster`: everything comes up, is well, keeps its secrets, goes down, and comes up again as it was."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from helpers.databases import free_ports
from loopback.installation import Installation
from loopback.postgres import find_binaries

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture
def installation(tmp_path, monkeypatch):
    if find_binaries() is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    installation = Installation(tmp_path / "cluster", port=free_ports(15), say=lambda text: None)
    yield installation
    installation.programs.stop()


def get(installation, path, key=None):
    request = urllib.request.Request(f"{installation.api}{path}")
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def test_an_installation_comes_up_whole_keeps_its_secrets_and_comes_back(installation):
    key = installation.start()
    assert re.fullmatch(r"autoslim_[0-9a-f]{16}_[\w-]{43}", key)
    everything = {"supervisor", "api", "ray-worker", "ray-head", "mlflow", "postgres"}
    assert set(installation.programs.running()) == everything
    assert installation.ray.nodes() == 2
    readiness = get(installation, "/readyz", key)
    assert readiness["ready"] is True
    assert set(readiness["dependencies"].values()) == {"ok"}, readiness
    assert get(installation, "/v1/jobs", key) == {"jobs": [], "next_page_token": None}
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(installation, "/v1/jobs")

    folder = installation.folder / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    secrets = [(folder / name).read_text().strip() for name in ("ray_token", "postgres_password")] + [key]
    told = {path: path.read_bytes() for path in (installation.folder / "programs").iterdir() if path.is_file()}
    lines = {pid: line for pid, line in command_lines().items() if str(installation.folder) in line or "autoslim" in line}
    assert any("supervise" in line for line in lines.values())
    for secret in secrets:
        assert not [path for path, text in told.items() if secret.encode() in text]
        assert not [line for line in lines.values() if secret in line]

    with pytest.raises(RuntimeError, match="runs already"):
        installation.start()
    pids = [installation._program(name)._read().pid for name in everything - {"postgres"}]
    # As `make cluster-stop` does, which the process of `make cluster` notices and stops it, too.
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: installation.programs.stop(), range(2))) == [None, None]
    assert installation.programs.running() == []
    assert not [
        pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    ]

    assert installation.start() is None, "the first start's key is still the one"
    assert get(installation, "/v1/jobs", key) == {"jobs": [], "next_page_token": None}


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_a_dead_node_is_started_again_and_the_service_works_on(installation, name, tmp_path):
    up = [sys.executable, "-m", "loopback", "--folder", str(installation.folder), "--port", str(installation.port), "up"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / part) for part in (".", "deploy"))}
    errors = tmp_path / "errors"
    with (
        errors.open("w") as stream,
        subprocess.Popen(up, stdout=subprocess.PIPE, stderr=stream, text=True, env=environment) as foreground,
    ):
        try:
            said = iter(foreground.stdout.readline, "")
            assert any("no login" in line for line in said if line.startswith("MLflow")), errors.read_text()
            next(line for line in said if line.startswith("export AUTOSLIM_URL"))
            program = installation._program(name)
            before = program._read()
            os.killpg(before.pid, signal.SIGKILL)
            deadline = time.monotonic() + 300
            # For a moment the killed one is still alive, and for up to half a minute its node is still among Ray's.
            while program._read() in (before, None) or not (program.is_alive() and installation.ray.nodes() == 2):
                assert time.monotonic() < deadline, program.tail()
                time.sleep(1)
            assert installation.programs.running()
        finally:
            # Leaving `Popen` waits for its end.
            foreground.send_signal(signal.SIGTERM)
        foreground.wait(timeout=120)
    assert f"{name} has exited and is started again" in errors.read_text()
    assert installation.programs.running() == []


def test_nothing_listens_anywhere_but_on_loopback(installation):
    installation.start()
    listening = {}
    for name in ("ray-head", "ray-worker", "mlflow", "api"):
        leader = psutil.Process(installation._program(name)._read().pid)
        for process in (leader, *leader.children(recursive=True)):
            listening[process.name()] = [each.laddr.ip for each in process.net_connections("inet") if each.status == "LISTEN"]
    assert {"gcs_server", "raylet"} <= listening.keys()
    assert {address for addresses in listening.values() for address in addresses} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, (
        listening
    )


def test_a_taken_port_is_named_before_anything_is_started(installation):
    import socket

    with (
        socket.create_server(("127.0.0.1", installation.port + 3)),
        pytest.raises(RuntimeError, match=f"port {installation.port + 3} is in use"),
    ):
        installation.start()
    assert installation.programs.running() == []
    assert not installation.folder.exists() or not (installation.folder / "secrets").exists()


def command_lines():
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found
