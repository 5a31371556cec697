"""A search over two Ray nodes without a common folder and an S3 server between them, killed and resumed on another machine."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.ray_head import ray_head
from helpers.s3_server import SECRET
from helpers.workers_command import SEARCH, Search
from ray.cluster_utils import Cluster

from autoslim.api.front import Front
from autoslim.core.result import TrialState
from autoslim.export.artifact import load
from autoslim.storage import StorageUri, fetch, list_files, look
from autoslim.storage.mirror import work_folder

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("no_search_is_left")]

AT_50 = [flag for place, flag in enumerate(SEARCH) if place not in (SEARCH.index("70%") - 1, SEARCH.index("70%"))]
PLAIN = ("--resources", "cpu=1", "--concurrency", "2", "--final-share", "0", "--speed", "none", "--forms", "none")


@pytest.fixture
def nodes(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without a place for trials, and two nodes, each with a folder of its own for everything; the store's address and its
    credentials are in the environment of all of them."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "head"))
    with ray_head(cpus=0) as cluster:
        for name in ("north", "south"):
            cluster.add_node(num_cpus=1, env_vars={"AUTOSLIM_CACHE": str(tmp_path / name)})
        yield cluster


def ended(uri: str) -> dict[int, float | None]:
    return {trial.number: trial.accuracy for trial in Front.open(uri).trials if trial.state is not TrialState.RUNNING}


def process_arguments() -> list[str]:
    """Of all processes of this machine, those of the nodes among them."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        # A process may end meanwhile.
        with contextlib.suppress(OSError):
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    assert any("autoslim" in line for line in lines)
    return lines


def test_it_is_killed_and_resumed_elsewhere(nodes: Cluster, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"s3://{bucket}/runs/digits"
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "desk"))
    first = Search(*AT_50, *PLAIN, "--address", nodes.address, "--trials", "3", "--output", uri)
    first.read_until(lambda line: " ends: " in line)
    # The end of a trial is in the store before the next one is given out.
    first.read_until(lambda line: "trial 2" in line and " starts: " in line)
    assert not [line for line in process_arguments() if SECRET in line]
    first.kill_all()

    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "reader"))
    before = ended(uri)
    assert before

    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "laptop"))
    second = Search("--resume", "--address", nodes.address, "--output", uri)
    assert second.end() == 0, second.text
    for number in before:
        assert not re.search(rf"trial {number} +.*starts", second.text), second.text

    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "reader"))
    front = Front.open(uri)
    assert [trial.state for trial in front.trials] == [TrialState.COMPLETE] * 3
    assert {number: ended(uri)[number] for number in before} == before

    store = StorageUri.parse(uri)
    names = {file.name for file in list_files(store)}
    assert {"job.json", "autoslim.db", "report.html", "trials.parquet", "models/50%/config.json"} <= names
    assert not [name for name in names if name.endswith("checkpoint.tar") or name.startswith(".leases/")]
    # Credentials are in the environment alone.
    assert SECRET not in first.text + second.text
    logs = Path(nodes.head_node.get_logs_dir_path())
    assert list(logs.glob("worker-*.err"))
    for folder in (*(tmp_path / name for name in ("desk", "laptop", "north", "south")), logs):
        written = (path for path in folder.rglob("*") if path.is_file())
        assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    model = fetch(look(store / "models/50%"), tmp_path / "reader")
    load(model)
    assert json.loads((model / "config.json").read_text())["accuracy"]

    # Each machine has brought the images once; no trial has left anything in a driver's folder but what was handed over.
    for name in ("north", "south"):
        assert list((tmp_path / name / "runs").glob("*/cache/*/dataset.json")), name
    for name, handed_over in (("desk", []), ("laptop", ["model"])):
        monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / name))
        assert work_folder(store).is_dir()
        assert [path.name for path in work_folder(store).glob("trials/*/*")] == handed_over, name
    assert not (tmp_path / "head" / "runs").exists()
