"""The client against the real service."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch
from helpers.driven_job import MODEL, DrivenJob
from helpers.marks import CI_ONLY
from helpers.running_service import SPEC, RunningService, settings_in

from autoslim.client import (
    AsyncClient,
    Client,
    ForbiddenError,
    InfeasibleBudgetError,
    InvalidSpecError,
    JobEndedError,
    KeyReusedError,
    NotFoundError,
    UnauthorizedError,
    WaitTimeoutError,
)
from autoslim.errors import RequestError, SpaceError
from autoslim.export.artifact import save
from autoslim.service.app import create_app

pytestmark = CI_ONLY


def later(action) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_a_job_is_submitted_once_however_often_it_is_asked_for(client: Client):
    job = client.submit(**SPEC, idempotency_key="mine")
    assert (job.state, job.info.spec["flops"]) == ("QUEUED", ["50%"])
    assert client.submit(**SPEC, idempotency_key="mine").id == job.id
    with pytest.raises(KeyReusedError, match="was used for another request"):
        client.submit(**SPEC, trials=3, idempotency_key="mine")
    assert [found.id for found in client.jobs()] == [job.id]
    with pytest.raises(InfeasibleBudgetError, match="which nothing in the space reaches") as told:
        client.submit(**{**SPEC, "flops": ["1%"]})
    assert told.value.exit_code == 3
    with pytest.raises(InvalidSpecError, match="did you mean deit_tiny") as refused:
        client.submit(**{**SPEC, "model": "deit_tny_patch16_224", "data": "nowhere"})
    assert {pointer for pointer, _ in refused.value.errors} == {"/model", "/data"}


def test_a_plan_keeps_nothing(client: Client):
    plan = client.plan(**SPEC)
    assert plan["budgets"][0]["feasible"]
    assert list(client.jobs()) == []


def test_a_spec_that_is_none_is_not_even_sent(client: Client, tmp_path: Path):
    with pytest.raises(RequestError, match="tirals is not a field of a job; did you mean trials"):
        client.submit(**SPEC, tirals=3)
    (tmp_path / "job.yaml").write_text("model: m\ndata: d\nflops: 50%\ntrials: 0\n")
    with pytest.raises(RequestError, match=r"job.yaml, line 4: trials is 0"):
        client.submit(tmp_path / "job.yaml")
    with pytest.raises((RequestError, SpaceError), match="cannot be read"):
        client.submit(**{**SPEC, "space": "./nowhere.yaml"})


def test_keys_open_what_they_are_for(service: RunningService, client: Client, driven: DrivenJob):
    assert client.job(driven.id).id == driven.id
    unknown = "autoslim_0000000000000000_" + 43 * "x"
    for key, error in ((None, UnauthorizedError), (unknown, UnauthorizedError), (service.key(tenant="stranger"), NotFoundError)):
        with Client(service.url, key) as other, pytest.raises(error):
            other.job(driven.id)
    lacks = pytest.raises(ForbiddenError, match="lacks the scope submit")
    with Client(service.url, service.key("read", tenant="stranger")) as reader, lacks:
        reader.plan(**SPEC)


def test_jobs_are_listed_by_state_and_name_over_all_pages(service: RunningService, client: Client, tenant: str):
    ids = [service.put(tenant, name="other" if number == 2 else "digits").id for number in range(5)]
    service.queue.request_cancel(ids[0])
    assert [job.id for job in client.jobs(page_size=2)] == ids[::-1]
    assert [job.id for job in client.jobs(state="CANCELLED")] == [ids[0]]
    assert [job.id for job in client.jobs(state=["QUEUED", "CANCELLED"], label="other")] == [ids[2]]


def test_events_are_followed_to_the_end_and_can_be_gone_on_with(client: Client, driven: DrivenJob):
    job = client.job(driven.id)
    began = later(lambda: (time.sleep(0.5), driven.search(), driven.succeed()))
    seen = list(job.events())
    began.join()
    states = [event.data["state"] for event in seen if event.type == "state"]
    assert states == ["QUEUED", "STARTING", "PREPARING", "SEARCHING", "FINALIZING", "SUCCEEDED"]
    assert [event.data["accuracy"] for event in seen if event.type == "best"] == [0.88]
    assert all(event.at is not None for event in seen)
    assert [event.seq for event in job.events(after=seen[3].seq)] == [event.seq for event in seen[4:]]
    assert list(job.events(after=seen[-1].seq)) == []


def test_a_result_is_waited_for(client: Client, driven: DrivenJob):
    job = client.job(driven.id)
    with pytest.raises(WaitTimeoutError, match=r"has not ended within 0.1 s"):
        job.wait(0.1)
    ending = later(lambda: (time.sleep(0.3), driven.search(), driven.succeed()))
    result = job.result(30)
    ending.join()
    assert result.models[0].test_accuracy == MODEL["test_accuracy"]
    assert (job.state, result.dense.flops if result.dense else None) == ("SUCCEEDED", 958_944)


def test_a_job_without_a_result_says_why_and_what_to_do(client: Client, driven: DrivenJob):
    driven.fail()
    with pytest.raises(JobEndedError, match=r"FAILED: no trial was within 50% Next: autoslim plan job.yaml") as told:
        client.job(driven.id).result()
    assert told.value.exit_code == 3


def test_cancelling_works_twice_and_purging_after_it(client: Client, service: RunningService, tenant: str):
    job = client.job(service.put(tenant).id)
    assert job.cancel().state == job.cancel().state == "CANCELLED"
    with pytest.raises(JobEndedError, match="ended as CANCELLED"):
        job.result()
    job.purge()
    with pytest.raises(NotFoundError):
        job.refresh()


def test_logs_are_followed_while_they_are_written(client: Client, driven: DrivenJob, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autoslim.client.sync_client.LOG_POLL_SECONDS", 0.05)
    job = client.job(driven.id)
    with pytest.raises(NotFoundError):
        list(job.logs())

    def write() -> None:
        for text in ("first\n", "züri", "ch\n"):
            time.sleep(0.2)
            driven.log(text)
        driven.search()
        driven.succeed()

    writing = later(write)
    assert "".join(job.logs(follow=True)) == "first\nzürich\n"
    writing.join()
    assert "".join(job.refresh().logs(attempt=1)) == "first\nzürich\n"


def test_a_model_is_pulled_and_loaded(client: Client, driven: DrivenJob, tmp_path: Path):
    from helpers import tiny

    dense, finished = tiny.slimmed("life_regression", "deit")
    save(tmp_path / "made", finished.model, tiny.config_of("life_regression", dense, finished))
    driven.finalize_models({file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()})
    job = client.job(driven.id)
    folder = job.pull(tmp_path / "pulled", budget="50%")
    assert {file.name for file in folder.iterdir()} >= {"model.safetensors", "config.json", "SHA256SUMS"}
    model, images = job.load(), tiny.images()
    with torch.inference_mode():
        assert torch.equal(tiny.logits(model, images), tiny.logits(finished.model.eval(), images))
    assert not model.training


def test_trials_and_the_front_are_empty_before_there_are_any(client: Client, driven: DrivenJob):
    job = client.job(driven.id)
    assert (job.trials(), job.front()["front"]) == ([], [])


def test_the_service_says_what_it_has_and_that_it_is_ready(client: Client):
    assert "vit_slim" in {method["name"] for method in client.capabilities()["methods"]}
    assert client.ready()["ready"] is True


def test_the_other_client_does_all_of_it(service: RunningService, tenant: str, driven: DrivenJob, tmp_path: Path):
    driven.finalize_models({"README.md": b"# card\n"})
    driven.log("a line\n")

    async def all_of_it() -> None:
        async with AsyncClient(service.url, service.key(tenant=tenant)) as client:
            job = await client.job(driven.id)
            ending = later(lambda: (time.sleep(0.3), driven.search(), driven.succeed()))
            kinds = [event.type async for event in job.events()]
            assert kinds.count("trial_ended") == 2
            assert (await job.result(30)).models[0].label == "50%"
            ending.join()
            assert "".join([text async for text in job.logs()]) == "a line\n"
            assert ((await job.pull(tmp_path / "out")) / "models" / "50%" / "README.md").read_bytes() == b"# card\n"
            assert [found.id async for found in client.jobs()] == [driven.id]
            assert await job.trials() == []
            with pytest.raises(NotFoundError):
                await client.job("01J0000000000000000000000A")

    asyncio.run(all_of_it())


def test_the_app_can_be_called_without_a_network(tmp_path: Path):
    app = create_app(settings_in(tmp_path), warm=False)

    async def all_of_it() -> None:
        async with (
            app.router.lifespan_context(app),
            AsyncClient("http://127.0.0.1", transport=httpx.ASGITransport(app)) as client,
        ):
            assert [job.id async for job in client.jobs()] == []
            assert (await client.ready())["dependencies"]["store"] == "ok"

    asyncio.run(all_of_it())
