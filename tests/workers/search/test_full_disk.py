"""A full disk of one node sends its trials to another one; the search ends where there is none, and says which disk it is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import traceback
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoslim.core.files import is_disk_full
from autoslim.errors import DiskFullError, StorageError
from autoslim.storage.mirror import NO_MIRROR, Mirror
from workers.search import full_disk, named_disks
from workers.search.full_disk import FullDisk
from workers.search.named_disks import named_full_disks

NODE = {"host": "gpu-7", "node": "3fa9"}
IN_STORE = Mirror.of("s3://runs/flowers")
FULL = OSError(errno.ENOSPC, "No space left on device")

Usage = namedtuple("Usage", "free")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, int]:
    """Bytes that are free on the disks of `output` and `cache` in the folder `tmp_path`; other disks have more."""
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "cache"))
    for name in ("output", "cache"):
        (tmp_path / name).mkdir()
    left = {"output": 10, "cache": 10}
    monkeypatch.setattr(full_disk.shutil, "disk_usage", lambda folder: Usage(left.get(Path(folder).name, 100)))
    return left


def test_the_error_says_what_the_driver_reads_of_it() -> None:
    for disk in (FullDisk("/var/cache/auto slim", "gpu-7", "3fa9"), FullDisk("/runs/flowers")):
        try:
            raise disk.error() from FULL
        except DiskFullError as error:
            text = "".join(traceback.format_exception(error))
            assert is_disk_full(error)
        assert FullDisk.read(text) == disk
    assert str(FullDisk("/c", "gpu-7", "3fa9").error()) == (
        "the disk is full at /c on node gpu-7 (3fa9); free some space and continue with --resume"
    )
    assert FullDisk.read("OSError: [Errno 28] No space left on device") is None


def test_the_disk_is_that_of_the_file_that_could_not_be_written(free: dict[str, int], tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "scratch" / "part"))
    assert FullDisk.of(error, tmp_path / "output", IN_STORE, **NODE) == FullDisk(str(tmp_path / "scratch"), **NODE)


@pytest.mark.parametrize("fullest", ["output", "cache"])
def test_where_the_error_names_no_file_it_is_the_one_with_least_left(free: dict[str, int], tmp_path: Path, fullest: str) -> None:
    free[fullest] = 1
    assert FullDisk.of(FULL, tmp_path / "output", IN_STORE, **NODE) == FullDisk(str(tmp_path / fullest), **NODE)


def test_a_disk_that_the_output_is_on_is_that_of_no_node(
    free: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free["cache"] = 1
    on_one = FullDisk.of(FULL, tmp_path / "output", NO_MIRROR, **NODE)
    assert on_one == FullDisk(str(tmp_path / "cache"))
    existing = full_disk._existing

    def on_its_own(folder: Path) -> Any:
        return SimpleNamespace(stat=lambda: SimpleNamespace(st_dev=existing(folder)))

    monkeypatch.setattr(full_disk, "_existing", on_its_own)
    monkeypatch.setattr(full_disk.shutil, "disk_usage", lambda folder: Usage(1))
    named = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "cache" / "part"))
    assert FullDisk.of(named, tmp_path / "output", NO_MIRROR, **NODE) == FullDisk(str(tmp_path / "cache"), **NODE)


def test_a_store_in_a_folder_that_is_full_is_that_of_no_node(free: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    free["store"] = 0
    found = FullDisk.of(FULL, tmp_path / "output", Mirror.of((tmp_path / "store").as_uri()), **NODE)
    assert found == FullDisk(str(tmp_path / "store"))


@pytest.mark.usefixtures("free")
def test_an_error_in_a_worker_names_folder_and_node_and_any_other_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_node_id=lambda: "3fa9")
    monkeypatch.setattr(named_disks, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    for error in (
        FULL,
        StorageError("s3://runs/x cannot be read: the disk is full; free some space and run the same command again"),
    ):
        message = r"at \S+ on node \S+ \(3fa9\); free some space"
        with pytest.raises(DiskFullError, match=message) as found, named_full_disks(tmp_path / "output", IN_STORE):
            raise error
        # A second one around it, as of a task in a task, changes nothing.
        with pytest.raises(DiskFullError) as again, named_full_disks(tmp_path / "output", NO_MIRROR):
            raise found.value
        assert again.value is found.value
    for other in (StopIteration(1), ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(other)) as kept, named_full_disks(tmp_path / "output", IN_STORE):
            raise other
        assert kept.value is other


_SEARCH = """
import contextlib, itertools, sys
from pathlib import Path
import ray
from helpers.ray_head import ray_head
from helpers.sample_search import make_job
from helpers.simulated_trials import make_coordinator
from ray import tune
from autoslim.core.budget import Budget
from autoslim.core.job import Resources
from autoslim.core.urls import default_url
from autoslim.store import Store
from workers.search import tune_run
from workers.search.full_disk import FullDisk
from workers.search.nodes import usable_nodes
from workers.search.slots import Slots
from workers.search.tune_searcher import CoordinatorSearcher

folder, everywhere = Path(sys.argv[1]), sys.argv[2] == "everywhere"

class Trial(tune.Trainable):
    def step(self):
        node, first = ray.get_runtime_context().get_node_id(), folder / "first"
        with (folder / "nodes").open("a") as file:
            print(node, file=file)
        if not first.exists():
            first.write_text(node)
        if everywhere or first.read_text() == node:
            raise FullDisk("/scratch", "of-a-test", node).error()
        return {"error_class": "DivergedError", "error": "it ran", "done": True}
    def reset_config(self, new_config):
        return True
    def save_checkpoint(self, checkpoint_dir):
        return None

one, rounds = Resources(cpu=1.0), itertools.count()
with ray_head(cpus=1) as cluster, Store(default_url(str(folder))) as store:
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    job = make_job(str(folder), budgets=(Budget.parse("80%"),), trials=3, final_share=0.0)
    coordinator = make_coordinator(job, store, folder)
    slots = Slots(one, most=1, concurrency=None, follows=True, nodes=usable_nodes)
    searcher = CoordinatorSearcher(coordinator, slots, {})
    tune_run.run_trials(
        Trial, searcher, name="full", resources=one, slots=slots, shutdown=contextlib.nullcontext(),
        is_up=lambda: next(rounds) > 1200,
    )
    print(*(result.state.value for result in store.trials(job.id)))
    print(coordinator.fatal)
    ray.shutdown()
"""


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("where", ["one", "everywhere"])
def test_trials_go_to_a_node_with_room_and_the_search_ends_where_there_is_none(tmp_path: Path, where: str) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _SEARCH, str(tmp_path), where], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    states, fatal = done.stdout.strip().splitlines()[-2:]
    nodes = (tmp_path / "nodes").read_text().split()
    if where == "one":
        # The first trial once more, and the others, all on the other node.
        assert (states, fatal) == ("failed failed failed", "None")
        assert (len(nodes), nodes.count(nodes[0]), len(set(nodes))) == (4, 1, 2)
    else:
        assert states == "running"
        assert len(nodes) == len(set(nodes)) == 2
        assert f"the disk is full at /scratch on node of-a-test ({nodes[1]})" in fatal
