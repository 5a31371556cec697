"""What Ray is told of each node: where drivers run, and where trials."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from loopback.ray_nodes import RayNodes

from workers.service.background_program import Program
from workers.service.executor import RESOURCE

_PORT = 30_000


def nodes(folder: Path, **changes: object) -> RayNodes:
    """Each command is printed instead."""
    return RayNodes(folder, port=_PORT, token=folder / "token", python="echo", **changes)


def printed(program: Program) -> str:
    deadline = time.monotonic() + 60
    while program.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return program.log.read_text()


def ports(command: str) -> set[int]:
    return {int(port) for port in re.findall(r"port=(\d+)", command)} - {0}


def test_drivers_run_on_their_worker_and_trials_where_there_are_cpus(tmp_path: Path) -> None:
    ray = nodes(tmp_path)
    ray.start_head()
    ray.start_worker({}, cpus=0)
    ray.start_trial_worker({}, cpus=3)
    head, drivers, trials = map(printed, (ray.head, ray.worker, ray.trial_worker))
    resource = json.dumps({RESOURCE: 1})
    assert [resource in command for command in (head, drivers, trials)] == [False, True, False]
    assert [re.findall(r"--num-cpus=(\d+)", command) for command in (head, drivers, trials)] == [["0"], ["0"], ["3"]]
    ray.stop()


def test_nodes_of_one_machine_share_no_port(tmp_path: Path) -> None:
    ray = nodes(tmp_path)
    ray.start_head()
    ray.start_worker({}, cpus=1)
    ray.start_trial_worker({}, cpus=1)
    taken = [ports(printed(program)) for program in (ray.head, ray.worker, ray.trial_worker)]
    # The address that the workers join has the head's.
    assert sum(map(len, taken)) == len(set().union(*taken)) == 12
    assert set().union(*taken) == set(range(_PORT, _PORT + 12))
    ray.stop()


@pytest.mark.parametrize(("address", "loopback"), [("127.0.0.1", True), ("10.213.3.1", False)])
def test_ray_keeps_to_loopback_where_its_nodes_are_there(tmp_path: Path, address: str, loopback: bool) -> None:
    assert ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in nodes(tmp_path, address=address).environment) == loopback


def test_a_worker_in_another_network_joins_the_head_under_its_own_address(tmp_path: Path) -> None:
    ray = nodes(tmp_path, address="10.213.3.1", worker_address="10.213.3.2", worker_wrapper=("echo", "inside"))
    ray.start_worker({}, cpus=1)
    command = printed(ray.worker)
    assert command.startswith("inside echo ")
    assert f"--address=10.213.3.1:{_PORT} " in command and "--node-ip-address=10.213.3.2 " in command
    ray.stop()
