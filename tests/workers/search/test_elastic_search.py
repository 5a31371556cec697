"""One search on a cluster that has one node, then three, then one again; and one on a pool that an autoscaler starts from nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers.ray_head import ray_head
from helpers.workers_command import SEARCH, Search
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster

from autoslim.core.result import Phase, TrialState
from autoslim.core.urls import default_url
from autoslim.store import Store

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("no_search_is_left")]

PLAIN = ("--resources", "cpu=1", "--final-share", "0", "--speed", "none", "--forms", "none")
AGAIN = "goes on from its checkpoint: "


@pytest.fixture(autouse=True)
def without_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own helpers for tests start nodes without one."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def drain(cluster: Cluster, node_id: str) -> None:
    """As a cloud's notice does it, or an operator."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.address, "--node-id", node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "120"]
    subprocess.run(command, check=True, env=os.environ, timeout=120)


def wait_for_demand(address: str, *, of_trials: bool = True, seconds: float = 120.0) -> None:
    """Until Ray shows an autoscaler that a place is missing: for a trial, or for any task."""
    deadline = time.monotonic() + seconds
    while True:
        demands = get_cluster_status(address).resource_demands
        if demands.placement_group_demand or (demands.ray_task_actor_demand and not of_trials):
            return
        assert time.monotonic() < deadline, f"no demand: {demands}"
        time.sleep(1.0)


def trial_worker() -> psutil.Process:
    """The process of the one trial that runs. The nodes are children of this process."""
    (found,) = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.name().startswith("ray::Resource") or "".join(process.cmdline()[:1]).startswith("ray::ResourceTrainable")
    ]
    return found


def finished(output: Path) -> list[TrialState]:
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        return [result.state for result in store.trials(stored.job.id)]


def repeats(output: Path, text: str) -> Iterator[tuple[int, int, int]]:
    """Of each trial the number, how many of its epochs of training were reported once more, and how often it was lost."""
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        for result in store.trials(stored.job.id):
            line = rf"^\S+ trial {result.number} \(.*"
            # What is reported again takes the place of the earlier report in the store.
            kept = [report for report in store.epochs(stored.job.id, result.number) if report.phase is not Phase.PRUNE]
            told = re.findall(rf"{line}? epoch \S+, (?!{Phase.PRUNE.value})", text, re.MULTILINE)
            yield result.number, len(told) - len(kept), len(re.findall(line + AGAIN, text, re.MULTILINE))


def test_one_search_on_one_node_then_three_then_one(tmp_path: Path) -> None:
    with ray_head(cpus=1) as nodes:
        flags = [*SEARCH, *PLAIN, "--address", nodes.address, "--trials", "5", "--epochs", "30"]
        search = Search(*flags, "--output", str(tmp_path / "run"))
        search.read_until(lambda line: "1 at a time" in line)
        search.read_until(lambda line: "trial 0" in line and "epoch" in line)
        wait_for_demand(nodes.address)

        trial_worker().terminate()
        assert "it had to leave its node" in search.read_until(lambda line: AGAIN in line)

        first, second = nodes.add_node(num_cpus=1), nodes.add_node(num_cpus=1)
        search.read_until(lambda line: "3 trials at a time" in line)
        running: set[str] = set()
        while len(running) < 3:
            line = search.read_until(lambda line: "epoch" in line or " ends: " in line)
            name = re.search(r"trial (\d+)", line)
            assert name is not None, line
            running = running - {name[1]} if " ends: " in line else running | {name[1]}

        drain(nodes, first.node_id)
        assert "it had to leave its node" in search.read_until(lambda line: AGAIN in line)
        nodes.remove_node(second, allow_graceful=False)
        assert "its node was lost" in search.read_until(lambda line: AGAIN in line)
        assert search.end() == 0, search.text
        assert "1 trial at a time" in search.text
    assert finished(tmp_path / "run") == [TrialState.COMPLETE] * 5
    again = {number: (repeated, losses) for number, repeated, losses in repeats(tmp_path / "run", search.text) if losses}
    assert sum(losses for _, losses in again.values()) >= 3
    assert all(repeated <= losses for repeated, losses in again.values()), f"{again}\n{search.text}"


def test_a_search_on_a_pool_without_nodes_asks_for_as_many_as_it_is_to_have(tmp_path: Path) -> None:
    with ray_head(cpus=0) as nodes:
        flags = [*SEARCH, *PLAIN, "--address", nodes.address, "--concurrency", "2", "--trials", "6", "--epochs", "15"]
        search = Search(*flags, "--output", str(tmp_path / "run"))
        # What an autoscaler does: a node for what waits. First the dense model does, then the trial that has no place beside the other.
        wait_for_demand(nodes.address, of_trials=False)
        nodes.add_node(num_cpus=1)
        search.read_until(lambda line: "trial 0" in line and " starts: " in line)
        wait_for_demand(nodes.address)
        nodes.add_node(num_cpus=1)
        search.read_until(lambda line: "2 trials at a time" in line)
        assert search.end() == 0, search.text
    assert finished(tmp_path / "run") == [TrialState.COMPLETE] * 6
