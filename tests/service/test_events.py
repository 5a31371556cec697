"""Events: page by page, and as a stream that can be taken up again where it was left."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from helpers.running_service import RunningService, running, settings_in

from autoslim.service.settings import RequestLimits

STREAM = {"Accept": "text/event-stream"}


def parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Events as a browser would read them; comments are left out."""
    event: dict[str, Any] = {}
    for line in lines:
        if not line:
            if event:
                yield event
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


def followed(client: httpx.Client, job_id: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM | (headers or {})) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        return list(parsed(answer.iter_lines()))


def test_events_come_page_by_page(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = service.put(tenant)
    for number in range(5):
        service.queue.append_event(job.id, "message", {"text": str(number)})
    seen, after = [], 0
    while page := client.get(f"/v1/jobs/{job.id}/events", params={"after": after, "limit": 2}).json():
        if not page["events"]:
            break
        seen += page["events"]
        after = page["next_after"]
    assert [event["type"] for event in seen] == ["state", *["message"] * 5]
    assert [event["data"]["text"] for event in seen[1:]] == list("01234")
    assert [event["seq"] for event in seen] == sorted(event["seq"] for event in seen)
    assert client.get(f"/v1/jobs/{job.id}/events", params={"after": after}).json() == {"events": [], "next_after": after}


def test_a_stream_has_what_was_and_what_comes_and_ends_with_the_job(
    service: RunningService, client: httpx.Client, tenant: str
) -> None:
    job = service.put(tenant)
    service.queue.append_event(job.id, "message", {"text": "before"})

    def later() -> None:
        for number in range(3):
            time.sleep(0.3)
            service.queue.append_event(job.id, "message", {"text": f"during {number}"})
        service.queue.request_cancel(job.id)

    thread = threading.Thread(target=later)
    thread.start()
    events = followed(client, job.id)
    thread.join()
    assert [event["event"] for event in events] == ["state", *["message"] * 4, "state"]
    assert json.loads(events[-1]["data"])["state"] == "CANCELLED"
    assert [int(event["id"]) for event in events] == sorted({int(event["id"]) for event in events})
    listed = client.get(f"/v1/jobs/{job.id}/events").json()["events"]
    assert [event["seq"] for event in listed] == [int(event["id"]) for event in events]


def test_a_stream_goes_on_after_the_last_event_that_was_seen(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = service.put(tenant)
    for number in range(700):
        service.queue.append_event(job.id, "message", {"text": str(number)})
    service.queue.request_cancel(job.id)
    all_events = followed(client, job.id)
    assert len(all_events) == 702
    for cut in (0, 1, 350, 700):
        assert followed(client, job.id, {"Last-Event-ID": all_events[cut]["id"]}) == all_events[cut + 1 :]


def test_a_client_that_has_seen_the_end_is_told_not_to_come_again(
    service: RunningService, client: httpx.Client, tenant: str
) -> None:
    job = service.put(tenant)
    service.queue.request_cancel(job.id)
    last = followed(client, job.id)[-1]["id"]
    answer = client.get(f"/v1/jobs/{job.id}/events", headers=STREAM | {"Last-Event-ID": last})
    assert answer.status_code == 204


@pytest.mark.parametrize("told", ["", "no number", "-1", "9" * 30, "1e3", "²"])
def test_a_last_event_id_that_is_none_does_no_harm(service: RunningService, client: httpx.Client, tenant: str, told: str) -> None:
    job = service.put(tenant)
    service.queue.request_cancel(job.id)
    answer = client.get(f"/v1/jobs/{job.id}/events", headers=[("Accept", STREAM["Accept"]), ("Last-Event-ID", told.encode())])
    assert answer.status_code in (200, 204)


def test_another_jobs_events_are_not_in_the_stream(service: RunningService, client: httpx.Client, tenant: str) -> None:
    mine, other = service.put(tenant), service.put("another")
    seen: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: seen.extend(followed(client, mine.id)))
    thread.start()
    time.sleep(0.6)
    service.queue.append_event(other.id, "message", {"text": "secret"})
    service.queue.append_event(mine.id, "message", {"text": "mine"})
    service.queue.request_cancel(mine.id)
    thread.join(20)
    assert [json.loads(event["data"]).get("text") for event in seen] == [None, "mine", None]


@pytest.mark.slow
@pytest.mark.short
def test_many_streams_see_the_same_events_in_the_same_order(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = service.put(tenant)
    found: list[list[str]] = []

    def follow() -> None:
        with service.anybody(headers=client.headers) as other:
            found.append([event["id"] for event in followed(other, job.id)])

    threads = [threading.Thread(target=follow) for _ in range(20)]
    for thread in threads:
        thread.start()
    # More than a reader's own buffer holds, in bursts, so that some have to read on from the table.
    for burst in range(4):
        for number in range(150):
            service.queue.append_event(job.id, "message", {"text": f"{burst}.{number}"})
    service.queue.request_cancel(job.id)
    for thread in threads:
        thread.join(60)
    assert len(found) == 20
    assert len(found[0]) == 602
    assert all(ids == found[0] for ids in found)


@contextlib.contextmanager
def streaming(client: httpx.Client, job_id: str) -> Iterator[httpx.Response]:
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as answer:
        yield answer


def test_there_are_so_many_streams_and_no_more(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with running(settings_in(tmp_path, limits=RequestLimits(streams=2))) as small, small.anybody() as client:
        job = small.put("local")
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(streaming(client, job.id)).iter_lines() for _ in range(2)]
            assert [next(line) for line in lines] == [": ping", ": ping"]
            refused = client.get(f"/v1/jobs/{job.id}/events", headers=STREAM)
            assert (refused.status_code, refused.json()["code"]) == (503, "too-many-streams")
        deadline = time.monotonic() + 10
        while client.get("/metrics").text.count("autoslim_event_streams 0.0") == 0:
            assert time.monotonic() < deadline, "a stream that was left is still open"
            time.sleep(0.1)


@pytest.mark.timeout(60)
def test_streams_end_when_the_service_does(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with running(settings_in(tmp_path)) as small, small.anybody() as client:
        job = small.put("local")
        with streaming(client, job.id) as answer:
            lines = answer.iter_lines()
            next(lines)
            small.server.should_exit = True
            list(lines)
