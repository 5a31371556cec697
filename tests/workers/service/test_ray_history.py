"""Which of its jobs a Ray cluster keeps after their drivers' end, and drivers whose names it knows already."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import ray
from helpers.local_server import serving

from autoslim.core.urls import default_url
from autoslim.store import Queue
from workers.service import ray_executor
from workers.service.executor import Driver, DriverState
from workers.service.ray_executor import RayJobsExecutor
from workers.service.settings import DriverSettings
from workers.service.supervisor import Supervisor

DAY = 86_400.0
DRIVERS = [Driver(f"{number:026d}", 1) for number in range(4)]


class Cluster:
    """A dashboard's jobs. `refused` are the names of those that it does not delete, `asked` those that it was asked to delete, `submitted`
    those that it has taken; while it is `dumb`, without an answer.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.refused: set[str] = set()
        self.asked: list[str] = []
        self.submitted: list[str] = []
        self.dumb = False

    def add(self, driver: Driver, status: str, *, days: float | None = None, node: str | None = "n") -> None:
        """A job that ended so many days ago, or has not ended."""
        end = None if days is None else int(1000 * (time.time() - days * DAY))
        self.jobs[driver.name] = {
            "type": "SUBMISSION",
            "submission_id": driver.name,
            "status": status,
            "entrypoint": "python",
            "end_time": end,
            "driver_node_id": node,
        }

    def handler(self) -> type[BaseHTTPRequestHandler]:
        cluster = self

        class Dashboard(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/api/jobs/")
                if name in cluster.jobs:
                    self._answer(200, cluster.jobs[name])
                elif self.path.startswith("/api/jobs"):
                    self._answer(200, list(cluster.jobs.values()))
                else:
                    self._answer(200, {"ray_version": ray.__version__})

            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
                if self.path.endswith("/stop"):
                    job = cluster.jobs[self.path.split("/")[-2]]
                    job |= {"status": "STOPPED", "end_time": int(1000 * time.time())}
                    self._answer(200, {"stopped": True})
                elif (name := sent["submission_id"]) in cluster.jobs:
                    self._answer(500, f"Job with submission_id {name} already exists.")
                else:
                    cluster.submitted.append(name)
                    cluster.add(Driver.parse(name) or DRIVERS[0], "RUNNING")
                    self._answer(
                        500 if cluster.dumb else 200, "no answer" if cluster.dumb else {"job_id": name, "submission_id": name}
                    )

            def do_DELETE(self) -> None:
                name = self.path.rpartition("/")[2]
                cluster.asked.append(name)
                if name in cluster.refused:
                    self._answer(500, "the agent is away")
                else:
                    del cluster.jobs[name]
                    self._answer(200, {"deleted": True})

            def _answer(self, status: int, content: object) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Dashboard


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def executor(cluster: Cluster, tmp_path: Path) -> Iterator[RayJobsExecutor]:
    settings = DriverSettings(storage=default_url(tmp_path), root=tmp_path)
    with serving(cluster.handler()) as port:
        yield RayJobsExecutor(settings, dashboard=f"http://127.0.0.1:{port}", python=sys.executable)


def round_of(executor: RayJobsExecutor) -> dict[Driver, DriverState]:
    """What a supervisor does with the drivers that have ended, in each of its rounds."""
    states = executor.list_drivers()
    for driver, state in states.items():
        if not state.alive:
            executor.delete_record(driver)
    return states


def test_a_job_is_deleted_a_day_after_its_end(cluster: Cluster, executor: RayJobsExecutor) -> None:
    for driver, status, days in zip(
        DRIVERS, ["SUCCEEDED", "FAILED", "SUCCEEDED", "RUNNING"], [1.1, 30.0, 0.9, None], strict=True
    ):
        cluster.add(driver, status, days=days)
    states = round_of(executor)
    assert states == dict.fromkeys(DRIVERS[:3], DriverState.ENDED) | {DRIVERS[3]: DriverState.RUNNING}
    assert cluster.jobs.keys() == {DRIVERS[2].name, DRIVERS[3].name}
    assert round_of(executor).keys() == set(DRIVERS[2:])
    assert len(cluster.asked) == 2


def test_a_job_that_never_had_a_node_is_deleted_at_once(cluster: Cluster, executor: RayJobsExecutor) -> None:
    cluster.add(DRIVERS[0], "STOPPED", days=0.0, node=None)
    assert round_of(executor) == {DRIVERS[0]: DriverState.NEVER_SCHEDULED}
    assert cluster.jobs == {}


def test_jobs_of_other_programs_are_left_alone(cluster: Cluster, executor: RayJobsExecutor) -> None:
    cluster.add(DRIVERS[0], "SUCCEEDED", days=30.0)
    cluster.jobs["theirs"] = {**cluster.jobs.pop(DRIVERS[0].name), "submission_id": "theirs"}
    assert round_of(executor) == {}
    assert cluster.asked == []


def test_many_old_jobs_are_deleted_in_several_rounds_the_oldest_first(
    cluster: Cluster, executor: RayJobsExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "_MOST_DELETED", 3)
    for driver, days in zip(DRIVERS, [2.0, 3.0, 4.0, 5.0], strict=True):
        cluster.add(driver, "SUCCEEDED", days=days)
    round_of(executor)
    assert cluster.jobs.keys() == {DRIVERS[0].name}
    round_of(executor)
    assert cluster.jobs == {}


def test_a_job_that_ray_does_not_delete_stops_no_round_and_is_not_asked_for_again(
    cluster: Cluster, executor: RayJobsExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    for driver in DRIVERS[:2]:
        cluster.add(driver, "SUCCEEDED", days=2.0)
    cluster.refused = {DRIVERS[0].name}
    for _ in range(3):
        round_of(executor)
    assert cluster.jobs.keys() == {DRIVERS[0].name}
    assert sorted(cluster.asked) == sorted(driver.name for driver in DRIVERS[:2])
    assert [record.message for record in caplog.records if "does not delete" in record.message] != []


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(default_url(tmp_path)) as queue:
        yield queue


def supervisor_of(queue: Queue, executor: RayJobsExecutor) -> Supervisor:
    return Supervisor(queue, executor, max_drivers=1, lease_seconds=60.0)


def submitted(queue: Queue) -> Driver:
    """The first attempt of a new job."""
    return Driver(queue.submit("{}", tenant="me", name="job")[0].id, 1)


def test_a_driver_whose_name_an_ended_job_has_is_started_and_not_lost(
    cluster: Cluster, executor: RayJobsExecutor, queue: Queue
) -> None:
    """The service was restored from a back-up of before the driver's start, and the cluster has seen it end."""
    driver = submitted(queue)
    cluster.add(driver, "FAILED", days=0.1)
    supervisor = supervisor_of(queue, executor)
    for _ in range(3):
        supervisor.reconcile()
    assert (cluster.asked, cluster.submitted) == ([driver.name], [driver.name])
    assert queue.get(driver.job_id).attempt == 1
    assert cluster.jobs[driver.name]["status"] == "RUNNING"


def test_a_driver_whose_name_a_living_job_has_is_started_when_that_one_has_ended(
    cluster: Cluster, executor: RayJobsExecutor, queue: Queue
) -> None:
    """The same while the earlier driver is still at work: two never write one folder."""
    driver = submitted(queue)
    cluster.add(driver, "RUNNING")
    supervisor = supervisor_of(queue, executor)
    supervisor.reconcile()
    assert (cluster.jobs[driver.name]["status"], cluster.submitted) == ("STOPPED", [])
    for _ in range(3):
        supervisor.reconcile()
    assert (cluster.jobs[driver.name]["status"], cluster.submitted) == ("RUNNING", [driver.name])
    assert queue.get(driver.job_id).attempt == 1


def test_a_driver_whose_submit_got_no_answer_is_not_stopped(cluster: Cluster, executor: RayJobsExecutor, queue: Queue) -> None:
    driver = submitted(queue)
    cluster.dumb = True
    supervisor = supervisor_of(queue, executor)
    for _ in range(3):
        supervisor.reconcile()
    assert cluster.submitted == [driver.name]
    assert cluster.jobs[driver.name]["status"] == "RUNNING"
    assert queue.get(driver.job_id).attempt == 1
