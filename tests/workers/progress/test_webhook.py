"""What a webhook is told of a search on this machine, in which order, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.sample_search import DENSE, make_job, make_result
from helpers.webhook_receiver import KEY, SECRET, Receiver, is_signed, receiving

from autoslim.core.budget import Budget
from autoslim.core.job import SearchJob
from autoslim.core.result import TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.errors import RequestError
from workers.progress.callbacks import SearchInfo
from workers.progress.webhook import WebhookEvents
from workers.search.notified import run_notified

MODEL = {
    "label": "50%",
    "trial": 2,
    "method": "width",
    "accuracy": 0.9,
    "test_accuracy": 0.88,
    "flops": 1,
    "folder": "/home/me/x",
}


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def job(receiver: Receiver, tmp_path: Path) -> SearchJob:
    return make_job(str(tmp_path), budgets=(Budget.parse("50%"),), webhook=receiver.url)


def complete(number: int, accuracy: float) -> TrialResult:
    return make_result(number, accuracy=accuracy, flops=DENSE.dense_flops // 3)


def follow(job: SearchJob, results: list[TrialResult], earlier: tuple[TrialResult, ...] = ()) -> WebhookEvents:
    """A search up to its end."""
    events = WebhookEvents(job, KEY)
    events.on_attempt_start(earlier)
    events.on_search_start(SearchInfo(job=job, budgets=job.budget_flops(DENSE.dense_flops), base=DENSE, results=earlier))
    for result in results:
        events.on_trial_end(result, "50%")
    return events


def test_each_new_best_and_the_end_are_told_in_order(job: SearchJob, receiver: Receiver) -> None:
    trials = [complete(0, 0.5), complete(1, 0.4), complete(2, 0.6)]
    follow(job, trials).succeed([MODEL], (), {"complete": 3})
    assert receiver.types == ["job.best", "job.best", "job.succeeded"]
    assert [body["data"].get("trial") for body in receiver.bodies[:2]] == [0, 2]
    assert receiver.bodies[1]["data"] == {
        "job": "digits-1",
        "label": "50%",
        "trial": 2,
        "method": trials[2].recipe.method,
        "accuracy": 0.6,
        "flops": DENSE.dense_flops // 3,
        "budget_share": pytest.approx(2 / 3),
    }
    told = {name: value for name, value in MODEL.items() if name != "folder"}
    assert receiver.bodies[2]["data"] == {
        "job": "digits-1",
        "state": "SUCCEEDED",
        "models": [told],
        "missing": [],
        "trials": {"complete": 3},
        "error": None,
    }
    assert all(is_signed(headers, body) for _, headers, body in receiver.requests)


def test_a_search_that_is_resumed_after_its_end_tells_nothing_again(job: SearchJob, receiver: Receiver) -> None:
    trials = [complete(0, 0.5), complete(1, 0.6)]
    follow(job, trials).succeed([MODEL], (), {"complete": 2})
    told = len(receiver.requests)
    follow(job, [], earlier=tuple(trials)).succeed([MODEL | {"test_accuracy": 0.8801}], (), {"complete": 2})
    assert len(receiver.requests) == told == 3
    # More trials are another end.
    follow(job, [complete(2, 0.7)], earlier=tuple(trials)).succeed([MODEL | {"trial": 3}], (), {"complete": 3})
    assert receiver.types[told:] == ["job.best", "job.succeeded"]
    assert len(set(receiver.ids)) == len(receiver.ids)


def test_a_receiver_that_is_down_fails_no_search_and_is_said_at_its_end(
    job: SearchJob, receiver: Receiver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.progress.webhook._LAST_SECONDS", 0.3)
    receiver.answers = [500] * 1000
    follow(job, [complete(0, 0.5)]).succeed([MODEL], (), {"complete": 1})
    assert capsys.readouterr().err == (
        "webhook: 2 notifications were not delivered: the webhook's host 127.0.0.1 answered 500; `search --resume` sends what waits in "
        "webhook.json\n"
    )
    receiver.answers, receiver.requests = [], []
    follow(job, [], earlier=(complete(0, 0.5),)).succeed([MODEL], (), {"complete": 1})
    assert sorted(receiver.types) == ["job.best", "job.succeeded"]


def test_a_failure_and_a_cancellation_are_told(job: SearchJob, receiver: Receiver) -> None:
    follow(job, []).end_with(RequestError("the data is gone"))
    follow(job, []).end_with(KeyboardInterrupt())
    assert receiver.types == ["job.failed", "job.cancelled"]
    assert receiver.bodies[0]["data"]["error"] == "the data is gone"
    assert receiver.bodies[1]["data"]["state"] == "CANCELLED"


def test_a_search_that_never_began_tells_nothing_and_writes_nothing(job: SearchJob, receiver: Receiver) -> None:
    WebhookEvents(job, KEY).end_with(RequestError("the folder holds another search"))
    assert receiver.requests == []
    assert not RunFolder(Path(job.output)).webhook.exists()


def test_a_webhook_without_a_secret_is_refused_before_anything_is_written(
    job: SearchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOSLIM_WEBHOOK_SECRET", raising=False)
    monkeypatch.delenv("AUTOSLIM_WEBHOOK_SECRET_FILE", raising=False)
    with pytest.raises(RequestError, match=r"^a webhook needs a secret to sign with, in AUTOSLIM_WEBHOOK_SECRET or"):
        run_notified(job)
    assert list(Path(job.output).iterdir()) == []


def test_the_secret_is_in_no_file(job: SearchJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSLIM_WEBHOOK_SECRET", SECRET)
    RunFolder(Path(job.output)).write_job(job)
    follow(job, [complete(0, 0.5)]).succeed([MODEL], (), {"complete": 1})
    text = "".join(path.read_text() for path in Path(job.output).rglob("*") if path.is_file())
    assert job.webhook is not None
    assert job.webhook in text
    assert SECRET not in text
    assert KEY.decode() not in text
