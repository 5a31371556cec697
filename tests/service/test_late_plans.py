"""Jobs that are queued before their plans: planned after that, by whoever runs, and not started meanwhile."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.running_service import SPEC, patient, running, settings_in

from autoslim.config import read_mapping
from autoslim.service import late_plans
from autoslim.store import Queue


@pytest.mark.slow
def test_a_submit_is_answered_before_its_plan_which_follows(tmp_path: Path) -> None:
    with running(settings_in(tmp_path, limits=patient(submit_seconds=0))) as hasty, hasty.anybody() as client:
        answers = [
            client.post("/v1/jobs", json=SPEC | fields)
            for fields in ({}, {"flops": ["1%"]}, {"space": "nowhere"}, {"model": "vit_nothing_patch16"})
        ]
        assert [answer.status_code for answer in answers] == [201] * 4
        good, *bad = (answer.json() for answer in answers)
        assert (good["state"], good["reason"]) == ("QUEUED", "its plan is being made")
        assert until(client, good["id"], lambda job: job["reason"] is None)["state"] == "QUEUED"
        infeasible, space, model = (until(client, job["id"], lambda job: job["state"] == "FAILED")["failure"] for job in bad)
        assert infeasible["failure_class"] == "INFEASIBLE"
        assert "flops[0] is '1%'" in infeasible["message"] and "which nothing in the space reaches" in infeasible["message"]
        assert infeasible["next"] == "autoslim plan job.yaml"
        assert space["failure_class"] == model["failure_class"] == "REQUEST"
        assert "space is 'nowhere'" in space["message"]
        assert "model is 'vit_nothing_patch16'" in model["message"]
        # What needs no plan is refused at once, and so is a path for the name of a space.
        for fields in ({"trials": 10**9}, {"space": "../secret.yaml"}, {"model": "a b"}):
            assert client.post("/v1/jobs", json=SPEC | fields).status_code == 422


def until(client: httpx.Client, job_id: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while not done(job := client.get(f"/v1/jobs/{job_id}").json()):
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return dict(job)


def leave_unplanned(queue: Queue, **fields: Any) -> str:
    """A job as a process of the API leaves it that was killed before the job's plan had come."""
    job, _ = queue.submit(read_mapping(SPEC | fields).model_dump_json(), tenant="local", unplanned_seconds=600)
    return job.id


@pytest.mark.slow
def test_a_job_that_another_process_has_left_without_its_plan_is_planned(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with Queue(settings.storage) as queue:
        good, bad = leave_unplanned(queue), leave_unplanned(queue, flops=["1%"])
    with running(settings) as service, service.anybody() as client:
        assert until(client, good, lambda job: job["reason"] is None)["state"] == "QUEUED"
        assert until(client, bad, lambda job: job["state"] == "FAILED")["failure"]["failure_class"] == "INFEASIBLE"
        assert service.queue.claim("s", 60) is not None


@pytest.mark.slow
def test_a_job_is_not_started_before_its_plan_however_long_that_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A job's hold ends in two seconds and is renewed within them; the planner takes longer to start.
    monkeypatch.setattr(late_plans, "_HOLD", 2.0 / 250.0)
    limits = patient(submit_seconds=0.0, planner_start_seconds=0.0, plan_seconds=250.0)
    with running(settings_in(tmp_path, limits=limits), shares_planner=False) as hasty, hasty.anybody() as client:
        job = client.post("/v1/jobs", json=SPEC | {"flops": ["1%"]}).json()
        began = time.monotonic()
        while client.get(f"/v1/jobs/{job['id']}").json()["state"] == "QUEUED":
            assert hasty.queue.claim("s", 60) is None
            assert time.monotonic() - began < 250
            time.sleep(0.05)
        assert client.get(f"/v1/jobs/{job['id']}").json()["failure"]["failure_class"] == "INFEASIBLE"


@pytest.mark.slow
def test_a_plan_that_takes_longer_than_the_operator_allows_is_the_failure_of_its_job(tmp_path: Path) -> None:
    """It is not run unplanned: nothing would bound its work."""
    with (
        running(settings_in(tmp_path, limits=patient(submit_seconds=0.0, plan_seconds=0.001))) as strict,
        strict.anybody() as client,
    ):
        job = client.post("/v1/jobs", json=SPEC).json()
        failure = until(client, job["id"], lambda job: job["state"] == "FAILED")["failure"]
    assert failure == {
        "failure_class": "REQUEST",
        "message": "no plan was made within 0.001 seconds (limits.plan_seconds)",
        "next": "autoslim plan job.yaml",
    }


@pytest.mark.slow
def test_a_job_waits_for_its_plan_while_no_planner_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not run unplanned either."""
    monkeypatch.setattr(late_plans, "_BROKEN_SECONDS", 0.1)
    settings = settings_in(tmp_path)
    with Queue(settings.storage) as queue:
        job_id = leave_unplanned(queue)
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(sys, "executable", "/bin/false")
        with running(settings) as service, service.anybody() as client:
            deadline = time.monotonic() + 120
            while "there is no planner" not in caplog.text:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert service.queue.claim("s", 60) is None
            assert client.get(f"/v1/jobs/{job_id}").json()["reason"] == "its plan is being made"
    with running(settings) as service, service.anybody() as client:
        assert until(client, job_id, lambda job: job["reason"] is None)["state"] == "QUEUED"
