"""Who can reach a Ray: one that a search starts listens on loopback only, and `doctor` says what another one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from ray._private import ray_constants

from workers.search.cluster import NICENESS, ONE_MACHINE, Cluster, _bound_to_loopback

OPEN = Cluster(address="10.0.0.4:6379", dashboard=None, login="log in with the token", cpus=8, gpus=0, nodes=[("10.0.0.4", 8080)])


def test_a_cluster_on_the_network_is_said_to_answer_everyone_at_its_metrics():
    assert OPEN.exposure == (
        "its nodes listen on every interface: metrics answer everyone without a token (10.0.0.4:8080), the token guards the others; "
        "close the ports to other machines"
    )


@pytest.mark.parametrize(
    ("nodes", "login", "said"),
    [
        ([("127.0.0.1", 1), ("::1", 2)], "log in with the token", "listens on this machine's loopback only"),
        # Ray knows one address of the loopback network as such.
        ([("127.0.0.1", 1), ("127.0.0.2", 2)], "log in with the token", "(127.0.0.2:2)"),
        ([("10.0.0.4", 1)], "no login", "nothing guards any"),
    ],
)
def test_what_is_said_depends_on_the_nodes_addresses_and_on_the_token(nodes, login, said):
    assert said in Cluster(address="", dashboard=None, login=login, cpus=1, gpus=0, nodes=nodes).exposure


@pytest.mark.parametrize("before", [None, "1"])
def test_the_switch_of_ray_is_put_back(monkeypatch, before):
    if before is None:
        monkeypatch.delenv(ONE_MACHINE, raising=False)
    else:
        monkeypatch.setenv(ONE_MACHINE, before)
    enabled = ray_constants.ENABLE_RAY_CLUSTER
    with _bound_to_loopback():
        assert (os.environ[ONE_MACHINE], ray_constants.ENABLE_RAY_CLUSTER) == ("0", False)
    assert (os.environ.get(ONE_MACHINE), ray_constants.ENABLE_RAY_CLUSTER) == (before, enabled)


PRIORITIES = """
import json, os, ray
from workers.search.cluster import connect
with connect(None, name="test"):
    print(json.dumps([os.nice(0), ray.get(ray.remote(lambda: os.nice(0)).remote())]))
"""


@pytest.mark.cluster
@pytest.mark.parametrize("added", [None, 5])
def test_trials_run_at_the_priority_of_the_driver_or_as_much_below_it_as_ray_is_told(monkeypatch, added):
    monkeypatch.delenv(NICENESS, raising=False)
    if added is not None:
        monkeypatch.setenv(NICENESS, str(added))
    out = subprocess.run([sys.executable, "-c", PRIORITIES], check=True, capture_output=True, text=True, timeout=200).stdout
    driver, worker = json.loads(out.splitlines()[-1])
    assert worker == min(19, driver + (added or 0))


LISTENING = """
import json, psutil, time
from workers.search.cluster import connect
with connect(None, name="test") as cluster:
    own, names = psutil.Process(), set()
    deadline = time.monotonic() + 60
    # The agent of the node starts last.
    while "ray::DashboardAgent" not in names and time.monotonic() < deadline:
        processes = own.children(recursive=True)
        names = {process.name() for process in processes}
        time.sleep(0.5)
    time.sleep(3.0)
    found = [(process.name(), each.laddr.ip) for process in (own, *processes)
             for each in process.net_connections("inet") if each.status == "LISTEN"]
    print(json.dumps({"found": found, "said": cluster.exposure}))
"""


@pytest.mark.cluster
def test_nothing_of_a_searchs_own_ray_listens_anywhere_but_on_loopback():
    out = subprocess.run([sys.executable, "-c", LISTENING], check=True, capture_output=True, text=True, timeout=200).stdout
    told = json.loads(out.splitlines()[-1])
    assert {"gcs_server", "raylet"} <= {name for name, _ in told["found"]}
    assert {address for _, address in told["found"]} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, told
    assert told["said"] == "listens on this machine's loopback only"
