"""Trials, the front, progress and metrics of a job, as a search writes them into the store."""

from __future__ import annotations

import re

import helpers.sample_search as sample
import httpx
import pytest
from helpers.running_service import RunningService

from autoslim.core.selection import best_within_budgets
from autoslim.store import Claim, QueuedJob, QueueState


@pytest.fixture
def searching(service: RunningService, tenant: str) -> QueuedJob:
    """A job of twelve trials, one of which still runs."""
    job = service.put(tenant, flops=["50%", "70%", "3G"], trials=12)
    claim = _claim(service, job.id)
    sample.fill(service.store, sample.make_job(id=job.id))
    for state in (QueueState.PREPARING, QueueState.SEARCHING):
        service.queue.transition(claim, state)
    return service.queue.get(job.id)


def _claim(service: RunningService, job_id: str) -> Claim:
    """Takes other tests' jobs out of the way."""
    while True:
        claim = service.queue.claim("test", 3600)
        assert claim is not None
        if claim.id == job_id:
            return claim


def test_a_jobs_progress_is_its_trials_and_the_best_of_each_budget(client: httpx.Client, searching: QueuedJob) -> None:
    job = client.get(f"/v1/jobs/{searching.id}").json()
    budgets = sample.make_job().budget_flops(sample.DENSE.dense_flops)
    best = {
        label: {
            "trial": found.number,
            "method": found.recipe.method,
            "accuracy": found.accuracy,
            "flops": found.flops,
            "model": None,
            "budget_share": (found.flops or 0) / budgets[label],
        }
        for label, found in best_within_budgets(sample.make_results(), budgets).items()
    }
    assert set(best) == {"50%", "70%", "3G"}
    assert job["state"] == "SEARCHING"
    assert job["progress"] == {"trials_ended": 11, "trials_total": 12, "best": best}


def test_trials_come_in_number_order_page_by_page(client: httpx.Client, searching: QueuedJob) -> None:
    seen, token = [], None
    while True:
        params = {"page_size": 5} | ({"page_token": token} if token else {})
        page = client.get(f"/v1/jobs/{searching.id}/trials", params=params).json()
        seen += page["trials"]
        token = page["next_page_token"]
        if token is None:
            break
    assert [trial["number"] for trial in seen] == list(range(12))
    first, failed, running = seen[0], seen[8], seen[11]
    result = sample.make_results()[0]
    assert (first["accuracy"], first["flops"], first["target"]) == (result.accuracy, result.flops, "50%")
    assert first["steps"] == [{"method": "vit_slim", "knobs": result.recipe.steps[0].knobs}]
    assert (failed["state"], failed["error_class"], failed["error"]) == ("failed", "DivergedError", "the loss is nan")
    assert (running["state"], running["accuracy"], running["ended_at"]) == ("running", None, None)


@pytest.mark.parametrize("token", ["", "x", "MTo", "MTphYmM", "MTotMQ", "MToxZTM", "MTo5OTk5OTk5OTk5OTk5OTk5OTk5", "é", "%00"])
def test_a_page_token_that_was_not_given_out_is_refused(client: httpx.Client, searching: QueuedJob, token: str) -> None:
    answer = client.get(f"/v1/jobs/{searching.id}/trials", params={"page_token": token})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "page_token")


def test_the_front_has_the_trials_that_no_other_beats(
    service: RunningService, client: httpx.Client, searching: QueuedJob
) -> None:
    service.store.set_chosen(searching.id, {"50%": 3})
    front = client.get(f"/v1/jobs/{searching.id}/front").json()
    points = [(trial["flops"], trial["accuracy"]) for trial in front["front"]]
    assert len(points) > 1
    assert points == sorted(points)
    assert [accuracy for _, accuracy in points] == sorted(accuracy for _, accuracy in points)
    assert front["selected"] == {"50%": 3}
    assert front["dense"]["flops"] == sample.DENSE.dense_flops
    assert 0 < front["hypervolume"] < 1


def test_a_job_that_has_not_begun_has_an_empty_front(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = service.put(tenant)
    assert client.get(f"/v1/jobs/{job.id}/front").json() == {
        "score": "accuracy",
        "dense": None,
        "models": {},
        "front": [],
        "selected": {},
        "hypervolume": None,
    }
    assert client.get(f"/v1/jobs/{job.id}/trials").json() == {"score": "accuracy", "trials": [], "next_page_token": None}


def test_trials_and_front_name_the_score_of_their_job(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = service.put(tenant, objective="features", weights="pretrained")
    answers = [client.get(f"/v1/jobs/{job.id}{part}").json()["score"] for part in ("", "/trials", "/front")]
    assert answers == ["agreement"] * 3


def test_metrics_tell_jobs_trials_and_accuracies(
    service: RunningService, client: httpx.Client, searching: QueuedJob, tenant: str
) -> None:
    service.put(tenant)
    front = client.get(f"/v1/jobs/{searching.id}/front").json()
    text = client.get("/metrics").text
    value = lambda name: float(re.search(rf"^{re.escape(name)} (\S+)$", text, flags=re.MULTILINE)[1])  # type: ignore[index]  # noqa: E731
    assert value('autoslim_jobs{state="SEARCHING"}') == 1
    assert value('autoslim_jobs{state="FAILED"}') == 0
    assert value("autoslim_queue_length") == 1
    assert 0 < value("autoslim_queue_oldest_seconds") < 60
    assert value(f'autoslim_trials{{job="{searching.id}",state="complete"}}') == 8
    assert 0.5 < value(f'autoslim_best_accuracy{{budget="50%",job="{searching.id}"}}') < 1
    assert value(f'autoslim_hypervolume{{job="{searching.id}"}}') == pytest.approx(front["hypervolume"])
    assert value('autoslim_request_seconds_count{method="GET",route="/v1/jobs/{job_id}/front",status="200"}') >= 1


def test_metrics_of_another_tenant_are_not_told(service: RunningService, searching: QueuedJob) -> None:
    with service.client() as other, service.client("admin") as admin:
        assert searching.id not in other.get("/metrics").text
        assert searching.id in admin.get("/metrics").text
