"""What a job says while it stands still, and that waiting is no loss: no node for its driver, a cluster or a disk that is away."""

from __future__ import annotations

import errno
import json
import sys
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import pytest
import ray
from helpers.local_server import serving
from helpers.supervised import PlacingExecutor, Site
from ray.job_submission import JobErrorType, JobStatus

from autoslim.core.urls import default_url
from autoslim.errors import UnavailableError
from autoslim.store import QueueState, schema
from workers.service import ray_executor
from workers.service import supervisor as module
from workers.service.executor import RESOURCE, Driver, DriverState
from workers.service.local_executor import LocalExecutor
from workers.service.ray_executor import RayJobsExecutor, driver_state

S = QueueState
NO_NODE = f"waiting for a node with {RESOURCE}"
DRIVER = Driver("job", 1)


@pytest.fixture
def site(tmp_path, monkeypatch):
    # The job of a driver without a node is paused at the second round, and again at every later one.
    monkeypatch.setattr(module, "_START_SECONDS", 0.0)
    monkeypatch.setattr(module, "_PAUSE_RENEWAL_SECONDS", 0.0)
    with Site(default_url(tmp_path), tmp_path, monkeypatch) as site:
        yield site


def reasons(site, job):
    return (site.state(job), site.queue.get(job.id).reason)


def wake(site):
    """As if every pause were over."""
    with site.queue._database.writing() as connection:
        connection.execute(schema.queue.update().values(not_before=None))
        connection.execute(schema.queue.update().where(schema.queue.c.state == "PAUSED").values(not_before="2000"))


def expire(site):
    with site.queue._database.writing() as connection:
        connection.execute(schema.queue.update().where(schema.queue.c.lease_until.is_not(None)).values(lease_until="2000"))


def test_a_driver_without_a_node_is_a_pause_with_its_reason_and_runs_as_the_same_attempt_when_there_is_one(site):
    executor = PlacingExecutor(site.settings, nodes=False)
    job, supervisor = site.submit(), site.supervisor(executor=executor)
    for _ in range(10):
        supervisor.reconcile()
    found = site.queue.get(job.id)
    assert (found.state, found.reason, found.attempt, found.losses, found.pauses) == (S.PAUSED, NO_NODE, 1, 0, 0)
    executor.nodes = True
    site.drive(supervisor, site.is_ended(job))
    found = site.queue.get(job.id)
    assert (found.state, found.reason, found.attempt, found.losses) == (S.SUCCEEDED, None, 1, 0)
    states = [event.data["state"] for event in site.queue.events(job.id) if event.type == "state"]
    assert states == ["QUEUED", "STARTING", "PAUSED", "PREPARING", "SEARCHING", "FINALIZING", "SUCCEEDED"]


def test_starting_says_that_it_waits_for_a_node_before_it_is_paused(site, monkeypatch):
    monkeypatch.setattr(module, "_START_SECONDS", 60.0)
    job, supervisor = site.submit(), site.supervisor(executor=PlacingExecutor(site.settings, nodes=False))
    for _ in range(3):
        supervisor.reconcile()
    assert reasons(site, job) == (S.STARTING, NO_NODE)


@pytest.mark.slow
@pytest.mark.short
def test_a_driver_that_the_cluster_gives_up_again_and_again_is_no_loss(site):
    executor = PlacingExecutor(site.settings, nodes=False)
    job, supervisor = site.submit(), site.supervisor(executor=executor)
    for attempt in range(1, 13):
        site.drive(supervisor, lambda attempt=attempt: site.queue.get(job.id).attempt == attempt and executor.waiting)
        executor.give_up()
        supervisor.reconcile()
        assert reasons(site, job) == (S.PAUSED, NO_NODE)
        wake(site)
    assert site.queue.get(job.id).losses == 0
    executor.nodes = True
    site.drive(supervisor, site.is_ended(job))
    assert site.state(job) is S.SUCCEEDED


def test_a_supervisor_that_ends_or_is_gone_for_longer_than_the_lease_costs_a_waiting_job_nothing(site, monkeypatch):
    monkeypatch.setattr(module, "_START_SECONDS", 60.0)
    executor = PlacingExecutor(site.settings, nodes=False)
    job, first = site.submit(), site.supervisor(executor=executor)
    for _ in range(2):
        first.reconcile()
    assert site.state(job) is S.STARTING
    expire(site)
    second = site.supervisor(executor=executor)
    second.reconcile()
    found = site.queue.get(job.id)
    assert (found.state, found.reason, found.attempt, found.losses) == (S.PAUSED, NO_NODE, 1, 0)
    executor.nodes = True
    site.drive(second, site.is_ended(job))
    assert (site.state(job), site.queue.get(job.id).attempt) == (S.SUCCEEDED, 1)


def test_a_job_that_waits_for_a_node_is_cancelled_at_once(site, monkeypatch):
    executor = PlacingExecutor(site.settings, nodes=False)
    paused, supervisor = site.submit(), site.supervisor(executor=executor, jobs=2)
    for _ in range(3):
        supervisor.reconcile()
    assert site.queue.request_cancel(paused.id).state is S.CANCELLED
    monkeypatch.setattr(module, "_START_SECONDS", 60.0)
    starting = site.submit()
    for _ in range(2):
        supervisor.reconcile()
    assert site.queue.request_cancel(starting.id).state is S.STARTING
    supervisor.reconcile()
    assert site.state(starting) is S.CANCELLED
    for _ in range(2):
        supervisor.reconcile()
    assert executor.waiting == {}, "no driver waits for a node that nobody needs"


@pytest.mark.slow
@pytest.mark.short
def test_all_jobs_say_that_the_cluster_is_away_and_go_on_when_it_is_back(site):
    site.mischief("hang")
    executor = PlacingExecutor(site.settings, nodes=True)
    running, supervisor = site.submit(), site.supervisor(executor=executor, jobs=2)
    site.drive(supervisor, lambda: site.state(running) is S.SEARCHING)
    assert reasons(site, running) == (S.SEARCHING, None)
    executor.nodes = False
    starting = site.submit()
    supervisor.reconcile()
    executor.reachable = False
    with pytest.raises(UnavailableError):
        supervisor.reconcile()
    assert reasons(site, running) == (S.SEARCHING, "the cluster cannot be reached")
    assert reasons(site, starting) == (S.PAUSED, "the cluster cannot be reached")
    executor.reachable = executor.nodes = True
    # The next supervisor does not know what the last one wrote.
    supervisor = site.supervisor(executor=executor, jobs=2)
    supervisor.reconcile()
    assert reasons(site, running) == (S.SEARCHING, None)
    site.mischief(None)
    site.drive(supervisor, site.is_ended(running, starting))
    assert [site.state(job) for job in (running, starting)] == [S.SUCCEEDED] * 2
    assert [site.queue.get(job.id).losses for job in (running, starting)] == [0, 0]


class HangingDashboard(BaseHTTPRequestHandler):
    """It says its version, and answers nothing else."""

    def do_GET(self):
        if self.path != "/api/version":
            # Until the other side gives up.
            while self.connection.recv(2**16):
                pass
            return
        body = json.dumps({"ray_version": ray.__version__}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


@pytest.mark.parametrize(
    "ask", [RayJobsExecutor.list_drivers, lambda executor: executor.start(DRIVER), lambda executor: executor.stop(DRIVER)]
)
def test_a_cluster_that_takes_a_request_and_never_answers_is_away(site, monkeypatch, ask):
    monkeypatch.setattr(ray_executor, "_ANSWER_SECONDS", 0.2)
    with serving(HangingDashboard) as port:
        executor = RayJobsExecutor(site.settings, dashboard=f"http://127.0.0.1:{port}", python=sys.executable)
        with pytest.raises(UnavailableError, match=r"Ray at http://127\.0\.0\.1:\d+ cannot be used: .*timed out"):
            ask(executor)


class FullDisk(LocalExecutor):
    full = True

    def start(self, driver):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().start(driver)


def test_starting_says_that_the_disk_is_full_and_is_paused_for_it(site, monkeypatch):
    monkeypatch.setattr(module, "_START_SECONDS", 60.0)
    executor = FullDisk(site.settings)
    job, supervisor = site.submit(), site.supervisor(executor=executor)
    supervisor.reconcile()
    assert reasons(site, job) == (S.STARTING, "the disk is full")
    monkeypatch.setattr(module, "_START_SECONDS", 0.0)
    supervisor.reconcile()
    assert reasons(site, job) == (S.PAUSED, "the disk is full")
    executor.full = False


def test_a_driver_that_cannot_be_registered_is_not_left_running(site, monkeypatch):
    executor = LocalExecutor(site.settings, command=("sh", "-c", "sleep 600"))
    children = []

    def full(driver, process):
        children.append(executor._children[driver])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(executor, "_write", full)
    job, supervisor = site.submit(), site.supervisor(executor=executor)
    supervisor.reconcile()
    assert reasons(site, job)[1] == "the disk is full"
    assert [child.poll() for child in children] == [-9]


def test_a_job_whose_driver_is_silent_says_so_although_nobody_can_write_it(site):
    site.mischief("hang")
    job, supervisor = site.submit(), site.supervisor()
    site.drive(supervisor, lambda: site.state(job) is S.SEARCHING)
    site.freeze(job)
    expire(site)
    for found in (site.queue.get(job.id), *site.queue.list()):
        assert found.reason == "its driver gives no sign of life: its node, the disk or the cluster may be away"


@pytest.mark.parametrize(
    ("status", "node", "error", "state"),
    [
        (JobStatus.PENDING, None, None, DriverState.PENDING),
        (JobStatus.RUNNING, "n", None, DriverState.RUNNING),
        (JobStatus.FAILED, None, JobErrorType.JOB_SUPERVISOR_ACTOR_START_TIMEOUT, DriverState.NEVER_SCHEDULED),
        (JobStatus.FAILED, None, JobErrorType.JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE, DriverState.NEVER_SCHEDULED),
        (JobStatus.STOPPED, None, None, DriverState.NEVER_SCHEDULED),
        (JobStatus.STOPPED, "n", None, DriverState.ENDED),
        (JobStatus.SUCCEEDED, "n", None, DriverState.ENDED),
        (JobStatus.FAILED, "n", None, DriverState.ENDED),
        (JobStatus.FAILED, None, JobErrorType.RUNTIME_ENV_SETUP_FAILURE, DriverState.ENDED),
    ],
)
def test_what_ray_says_of_a_driver_is_told_apart(status, node, error, state):
    details = SimpleNamespace(status=status, driver_node_id=node, error_type=None if error is None else error.value)
    assert driver_state(details) is state
