"""The supervisor notifies the webhooks of all jobs, from the queue's events: each once, also after it was replaced."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.webhook_receiver import KEY, SECRET, Receiver, is_signed, receiving, wait_until

from autoslim.config import read_mapping
from autoslim.core.urls import default_url
from autoslim.store import Claim, Failure, FailureClass, Queue, QueueState
from autoslim.webhook.addresses import AllowedHosts
from workers.service.local_executor import _without_webhook_secret
from workers.service.webhook_relay import WebhookRelay

SPEC = {"model": "deit_tiny_patch16_224", "weights": "scratch", "data": "digits", "flops": ["50%"]}
BEST = {"label": "50%", "trial": 3, "method": "width", "accuracy": 0.9, "flops": 100, "budget_share": 0.99}
RESULT = '{"models": [{"label": "50%", "trial": 3, "folder": "models/50%", "accuracy": 0.9}], "missing": [], "trials": {"complete": 4}}'
HERE = AllowedHosts(["127.0.0.1"])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(default_url(tmp_path)) as queue:
        yield queue


@pytest.fixture
def relay(queue: Queue, tmp_path: Path) -> Callable[..., WebhookRelay]:
    def make(allowed: AllowedHosts = HERE, public: Callable[[Any], Any] = lambda text: text) -> WebhookRelay:
        return WebhookRelay(queue, tmp_path, KEY, allowed=allowed, public=public, every=0.02)

    return make


def submit(queue: Queue, url: str | None) -> str:
    spec = read_mapping(SPEC | ({} if url is None else {"webhook": url}))
    return queue.submit(spec.model_dump_json(), tenant="me")[0].id


def adopt(queue: Queue, job_id: str) -> Claim:
    claim = queue.claim("supervisor", 60)
    assert claim is not None
    assert claim.id == job_id
    return queue.adopt(job_id, claim.attempt, "driver", 60)


def test_the_best_trials_and_the_end_of_a_job_are_told(
    queue: Queue, receiver: Receiver, relay: Callable[..., WebhookRelay]
) -> None:
    job_id = submit(queue, receiver.url)
    with relay():
        claim = adopt(queue, job_id)
        queue.transition(claim, QueueState.SEARCHING)
        queue.record(claim, "trial_ended", {"trial": 3})
        queue.record(claim, "best", BEST)
        wait_until(lambda: receiver.types == ["job.best"])
        queue.transition(claim, QueueState.FINALIZING)
        queue.transition(claim, QueueState.SUCCEEDED, result=RESULT)
        wait_until(lambda: receiver.types == ["job.best", "job.succeeded"])
    assert receiver.bodies[0]["data"] == {"job": job_id, **BEST}
    ended = receiver.bodies[1]["data"]
    assert (ended["job"], ended["state"], ended["trials"]) == (job_id, "SUCCEEDED", {"complete": 4})
    assert ended["models"] == [{"label": "50%", "trial": 3, "accuracy": 0.9}]
    assert all(is_signed(headers, body) for _, headers, body in receiver.requests)


def test_a_job_that_ends_without_a_driver_is_told_of(
    queue: Queue, receiver: Receiver, relay: Callable[..., WebhookRelay]
) -> None:
    queue.request_cancel(submit(queue, receiver.url))
    failure = Failure(failure_class=FailureClass.DATA, message="/srv/data/x is unreadable", next="autoslim plan job.yaml")
    queue.refuse(submit(queue, receiver.url), failure)
    with relay(public=lambda text: text and text.replace("/srv/data/", "")):
        wait_until(lambda: len(receiver.requests) == 2)
    assert receiver.types == ["job.cancelled", "job.failed"]
    assert receiver.bodies[1]["data"]["error"] == "DATA: x is unreadable"


def test_the_next_supervisor_tells_the_rest_and_nothing_twice(
    queue: Queue, receiver: Receiver, relay: Callable[..., WebhookRelay], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("workers.service.webhook_relay._LAST_SECONDS", 0.2)
    queue.request_cancel(submit(queue, receiver.url))
    with relay():
        wait_until(lambda: len(receiver.requests) == 1)
    receiver.answers = [500] * 1000
    queue.request_cancel(submit(queue, receiver.url))
    with relay():
        wait_until(lambda: len(receiver.requests) > 2)
    receiver.answers, receiver.requests = [], []
    with relay():
        wait_until(lambda: len(receiver.requests) == 1)
    with relay():
        pass
    assert receiver.types == ["job.cancelled"]
    assert KEY.decode() not in (tmp_path / "webhooks.json").read_text()


def test_a_job_without_a_webhook_and_one_whose_host_is_allowed_no_more_tell_nobody(
    queue: Queue, receiver: Receiver, relay: Callable[..., WebhookRelay], caplog: pytest.LogCaptureFixture
) -> None:
    queue.request_cancel(submit(queue, None))
    queue.request_cancel(submit(queue, "http://metadata.internal/latest"))
    queue.request_cancel(submit(queue, receiver.url))
    with relay():
        wait_until(lambda: len(receiver.requests) == 1)
    assert "no notification: the webhook has the host 'metadata.internal'" in caplog.text


def test_a_host_of_the_list_that_leads_inside_is_not_asked(
    queue: Queue, receiver: Receiver, relay: Callable[..., WebhookRelay], caplog: pytest.LogCaptureFixture
) -> None:
    queue.request_cancel(submit(queue, receiver.url.replace("127.0.0.1", "localhost")))
    with relay(AllowedHosts(["localhost"])):
        wait_until(lambda: "which is not a public address" in caplog.text)
    assert receiver.requests == []


def test_drivers_do_not_have_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSLIM_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("AUTOSLIM_WEBHOOK_SECRET_FILE", "/run/secrets/webhook")
    assert set(os.environ) - set(_without_webhook_secret()) == {"AUTOSLIM_WEBHOOK_SECRET", "AUTOSLIM_WEBHOOK_SECRET_FILE"}
