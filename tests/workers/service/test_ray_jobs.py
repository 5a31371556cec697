"""Drivers as jobs of a Ray cluster of two nodes, with a token, a database with a password, and a driver that is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request

import psutil
import pytest
from helpers.databases import PASSWORD, free_ports, fresh_postgres
from helpers.service_search import MINUTES, TINY, ended_trials, is_whole, leaks
from helpers.supervised import Site, ray_supervisor_process
from loopback.ray_nodes import RayNodes

from autoslim.store import QueueState
from workers.service.settings import DriverSettings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

S = QueueState


@pytest.fixture
def site(postgres, tmp_path, monkeypatch):
    with Site(fresh_postgres(postgres), tmp_path, monkeypatch) as site:
        site.settings = DriverSettings(storage=site.settings.storage, root=site.settings.root, address="auto", lease_seconds=60.0)
        yield site


@pytest.fixture
def ray_head(site, tmp_path, monkeypatch):
    """A cluster whose head runs no drivers."""
    token = tmp_path / "token"
    token.write_text("canary-token-" + "0" * 32)
    token.chmod(0o600)
    nodes = RayNodes(tmp_path / "ray", port=free_ports(12), token=token, python=sys.executable)
    for name, value in nodes.environment.items():
        monkeypatch.setenv(name, value)
    try:
        nodes.start_head()
        until(lambda: nodes.nodes() == 1, nodes.head)
        yield nodes
    finally:
        nodes.stop()
    # Tests that look at this process's children come after these.
    assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []


@pytest.fixture
def ray_nodes(site, ray_head):
    start_worker(site, ray_head)
    return ray_head


def start_worker(site, nodes):
    # The only way of the password to the driver.
    nodes.start_worker({"AUTOSLIM_STORAGE": site.settings.storage}, cpus=2)
    until(lambda: nodes.nodes() == 2, nodes.worker)


def until(is_so, program):
    deadline = time.monotonic() + 240
    while not is_so():
        assert program.is_alive() and time.monotonic() < deadline, program.tail()
        time.sleep(0.5)


def test_a_driver_runs_off_the_head_survives_its_supervisor_is_replaced_when_killed_and_obeys_cancellations(site, ray_nodes):
    job = site.submit(**TINY)
    with ray_supervisor_process(site, ray_nodes.dashboard):
        site.drive(None, site.has_ended_trials(job, 1), seconds=MINUTES)
        (begun,) = submissions(ray_nodes)
        (worker,) = [node for node in ray_nodes.alive() if not node["is_head_node"]]
    assert begun["submission_id"] == f"{job.id}-a1"
    assert begun["driver_node_id"] == worker["node_id"], "no driver sits on the head"
    assert begun["entrypoint"].endswith(f"-m workers.service.attempt {job.id} 1")
    assert PASSWORD not in json.dumps(begun)

    with ray_supervisor_process(site, ray_nodes.dashboard):
        # The supervisor was killed; the next one finds the driver and starts no second one.
        site.drive(None, site.has_ended_trials(job, 2), seconds=MINUTES)
        assert site.queue.get(job.id).attempt == 1
        os.kill(int(site.queue.get(job.id).owner.rpartition(":")[2]), signal.SIGKILL)
        site.drive(None, site.is_ended(job), seconds=MINUTES)
        found = site.queue.get(job.id)
        assert (found.state, found.attempt) == (S.SUCCEEDED, 2), (found.failure, site.logs())
        results = is_whole(site, job)
        ended = ended_trials(site, job)
        assert len(ended) == len(set(ended)) == len(results)

        endless = site.submit(**{**TINY, "trials": 200, "epochs": 20.0})
        site.drive(None, lambda: site.state(endless) is S.SEARCHING, seconds=MINUTES)
        site.queue.request_cancel(endless.id)
        site.drive(None, site.is_ended(endless), seconds=90)
        assert site.state(endless) is S.CANCELLED

        ray_nodes.stop()
        waiting = site.submit(**TINY)
        time.sleep(5.0)
        assert site.state(waiting) is S.QUEUED
        assert site.queue.request_cancel(waiting.id).state is S.CANCELLED
    # Logs outlive the cluster.
    assert "and the dense one on " in site.settings.log(job.id, 2).read_text()
    for secret in (PASSWORD, "canary-token"):
        assert not leaks(site.settings.root, secret)


def test_a_job_waits_for_the_node_of_its_driver_without_a_loss_and_runs_when_it_comes(site, ray_head):
    job = site.submit(**{**TINY, "trials": 2})
    with ray_supervisor_process(site, ray_head.dashboard):
        site.drive(None, lambda: site.queue.get(job.id).reason is not None, seconds=60)
        assert (site.state(job), site.queue.get(job.id).reason) == (S.STARTING, "waiting for a node with autoslim_driver")
        site.drive(None, lambda: site.state(job) is S.PAUSED, seconds=120)
    # The next supervisor finds it waiting, for longer than a pause would last.
    with ray_supervisor_process(site, ray_head.dashboard):
        until_later = time.monotonic() + 75
        while time.monotonic() < until_later:
            found = site.queue.get(job.id)
            assert (found.state, found.reason) == (S.PAUSED, "waiting for a node with autoslim_driver")
            time.sleep(1.0)
        start_worker(site, ray_head)
        site.drive(None, site.is_ended(job), seconds=MINUTES)
    found = site.queue.get(job.id)
    assert (found.state, found.attempt, found.losses) == (S.SUCCEEDED, 1, 0), (found.failure, site.logs())


def submissions(nodes):
    request = urllib.request.Request(f"{nodes.dashboard}/api/jobs/")
    request.add_header("Authorization", f"Bearer {nodes.token.read_text()}")
    with urllib.request.urlopen(request, timeout=30) as reply:
        return [job for job in json.load(reply) if job["submission_id"]]
