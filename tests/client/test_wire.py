"""What the client does when the network or the service misbehaves. The other side is a transport that answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from autoslim.client import (
    AsyncClient,
    Client,
    InfeasibleBudgetError,
    InvalidSpecError,
    KeyReusedError,
    NotFoundError,
    RefusedError,
    ServiceError,
    TooManyRequestsError,
    UnauthorizedError,
    UnexpectedReplyError,
    UnreachableError,
)
from autoslim.client.problem import CODES
from autoslim.errors import AutoslimError

JOB = {"id": "01J0000000000000000000000A", "state": "QUEUED", "created_at": "2026-01-02T03:04:05.678+00:00"}
SPEC = {"model": "deit_tiny_patch16_224", "data": "digits", "flops": ["50%"]}

Answer = httpx.Response | Exception


class Script:
    """Answers in this order, and remembers what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def client(self) -> Client:
        return Client("http://127.0.0.1:1", transport=httpx.MockTransport(self))


def job(**changes: object) -> httpx.Response:
    return httpx.Response(200, json={**JOB, **changes})


def problem(status: int, code: str, **more: object) -> httpx.Response:
    body = {
        "type": f"urn:autoslim:problem:{code}",
        "code": code,
        "title": "t",
        "status": status,
        "detail": "what was wrong",
        **more,
    }
    return httpx.Response(status, text=json.dumps(body), headers={"Content-Type": "application/problem+json"})


def lost() -> Exception:
    return httpx.ReadError("connection reset")


# Requests


def test_a_lost_answer_is_asked_for_again_with_the_same_key():
    script = Script(lost(), httpx.Response(503), job())
    assert script.client.submit(**SPEC).id == JOB["id"]
    keys = {request.headers["Idempotency-Key"] for request in script.asked}
    assert len(script.asked) == 3
    assert len(keys) == 1


def test_two_submissions_have_two_keys_unless_the_user_says_otherwise():
    script = Script(job(), job(), job())
    client = script.client
    client.submit(**SPEC)
    client.submit(**SPEC)
    client.submit(**SPEC, idempotency_key="mine")
    first, second, third = (request.headers["Idempotency-Key"] for request in script.asked)
    assert len({first, second}) == 2
    assert third == "mine"


def test_it_gives_up_after_some_tries_and_says_where_it_looked():
    script = Script(*[lost() for _ in range(10)])
    with pytest.raises(UnreachableError, match=r"http://127.0.0.1:1 cannot be reached: connection reset. Is it running"):
        script.client.job("x")
    assert len(script.asked) == 4


def test_a_reason_that_is_a_sentence_does_not_end_twice():
    script = Script(*[httpx.RemoteProtocolError("Server disconnected without sending a response.") for _ in range(4)])
    with pytest.raises(
        UnreachableError, match=r"without sending a response\. The job may have been queued: `autoslim jobs` lists it"
    ):
        script.client.submit(**SPEC)


def test_what_is_refused_is_not_asked_for_again():
    script = Script(problem(422, "invalid-request"))
    with pytest.raises(RefusedError, match="what was wrong"):
        script.client.job("x")
    assert len(script.asked) == 1


def test_only_what_was_said_is_sent():
    script = Script(job())
    script.client.submit(**SPEC, trials=3)
    assert json.loads(script.asked[0].content) == {**SPEC, "trials": 3}


def test_a_local_search_space_goes_along_and_a_path_of_this_folder_is_told_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("methods: {sit: {}}\n")
    script = Script(job())
    script.client.submit(**{**SPEC, "data": "./flowers", "space": "mine.yaml", "weights": "deit.pth"})
    sent = json.loads(script.asked[0].content)
    assert sent["space"] == {"methods": {"sit": {}}}
    assert sent["data"] == str(tmp_path / "flowers")
    assert sent["weights"] == "deit.pth"


def test_a_redirect_is_not_followed_with_the_key():
    script = Script(httpx.Response(307, headers={"Location": "https://elsewhere.example/"}))
    with pytest.raises(UnexpectedReplyError):
        script.client.job("x")
    assert len(script.asked) == 1


def test_a_job_that_is_named_like_a_path_stays_one_segment():
    script = Script(problem(404, "not-found"))
    with pytest.raises(NotFoundError):
        script.client.job("../../readyz?x=1")
    assert script.asked[0].url.raw_path == b"/v1/jobs/..%2F..%2Freadyz%3Fx%3D1"


# Errors


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_its_own_error(code: str):
    script = Script(*[problem(418, code)] * 4)
    with pytest.raises(CODES[code]) as told:
        script.client.job("x")
    assert (told.value.code, told.value.status) == (code, 418)
    assert told.value.exit_code in (2, 3, 4)


@pytest.mark.parametrize(
    ("answer", "kind", "exit_code"),
    [
        (problem(401, "unauthenticated"), UnauthorizedError, 4),
        (problem(403, "new-code"), UnreachableError, 4),
        (problem(404, "new-code"), NotFoundError, 2),
        (problem(422, "idempotency-key-reused"), KeyReusedError, 2),
        (problem(422, "infeasible-budget"), InfeasibleBudgetError, 3),
        (problem(418, "new-code"), RefusedError, 2),
        (httpx.Response(500, text="<html>oops"), UnreachableError, 4),
        (httpx.Response(200, text="<html>hello"), UnexpectedReplyError, 4),
        (httpx.Response(200, json=["a list"]), UnexpectedReplyError, 4),
        (httpx.Response(200, json={"id": 3}), UnexpectedReplyError, 4),
        (httpx.Response(404, text="not found"), NotFoundError, 2),
    ],
)
def test_an_error_is_what_its_code_says_or_else_its_status(answer: httpx.Response, kind: type[ServiceError], exit_code: int):
    with pytest.raises(kind) as told:
        Script(answer).client.job("x")
    assert told.value.exit_code == exit_code
    assert isinstance(told.value, AutoslimError)


def test_all_that_is_wrong_with_a_spec_is_told_with_its_places():
    errors = [{"pointer": "/trials", "detail": "trials is 0; allowed: 1 and more"}, {"pointer": "/data", "detail": "data is 'x'"}]
    script = Script(problem(422, "invalid-spec", errors=errors))
    with pytest.raises(InvalidSpecError, match=r"trials is 0; allowed: 1 and more\ndata is 'x'") as told:
        script.client.submit(**SPEC)
    assert told.value.errors == (("/trials", errors[0]["detail"]), ("/data", errors[1]["detail"]))


def test_a_submit_that_times_out_is_told_as_what_it_is_with_the_key_to_repeat_it():
    script = Script(*[httpx.ReadTimeout("timed out")] * 3, httpx.ConnectError("refused"))
    with pytest.raises(UnreachableError) as told:
        script.client.submit(**SPEC, name="tulips")
    (key,) = {request.headers["Idempotency-Key"] for request in script.asked}
    assert "The job may have been queued: `autoslim jobs --name tulips` lists it" in str(told.value)
    assert f"again with the idempotency key {key!r} is safe" in str(told.value)
    assert "Is it running" not in str(told.value)
    repeated = Script(job())
    repeated.client.submit(**SPEC, name="tulips", idempotency_key=key)
    assert repeated.asked[0].headers["Idempotency-Key"] == key
    assert repeated.asked[0].content == script.asked[0].content


def test_a_submit_that_never_arrived_and_a_request_that_changes_nothing_leave_no_doubt():
    for script in (Script(*[httpx.ConnectError("refused")] * 4), Script(*[httpx.ConnectTimeout("")] * 4)):
        with pytest.raises(UnreachableError, match="Is it running") as told:
            script.client.submit(**SPEC)
        assert "may have been queued" not in str(told.value)
    with pytest.raises(UnreachableError, match=r"did not answer in time: timed out\. Is it running"):
        Script(*[httpx.ReadTimeout("timed out")] * 4).client.job("x")


def test_every_submit_has_a_key_of_its_own():
    script = Script(job(), job())
    for _ in range(2):
        script.client.submit(**SPEC)
    first, second = (request.headers["Idempotency-Key"] for request in script.asked)
    assert len(first) == len(second) == 36
    assert first != second


def test_a_pause_that_the_service_asks_for_is_kept(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    answers = [problem(429, "too-many-requests") for _ in range(2)]
    answers[0].headers["Retry-After"] = "7"
    answers[1].headers["Retry-After"] = "86400"
    Script(*answers, job()).client.job("x")
    assert pauses == [7.0, 30.0]
    with pytest.raises(TooManyRequestsError):
        Script(*[problem(429, "too-many-requests")] * 4).client.job("x")


# Events


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Lines, and then perhaps a lost connection."""

    def __init__(self, text: str, error: Exception | None = None) -> None:
        self.text, self.error = text, error

    def __iter__(self) -> Iterator[bytes]:
        # In pieces that end anywhere.
        for start in range(0, len(self.text), 7):
            yield self.text[start : start + 7].encode()
        if self.error:
            raise self.error

    async def __aiter__(self):
        for piece in self:
            yield piece


def events(*numbers: int, end: str | None = None, error: Exception | None = None) -> httpx.Response:
    text = ": ping\n\n" + "".join(
        f'id: {n}\nevent: message\ndata: {{"text": "{n}", "at": "2026-01-02T03:04:05Z"}}\n\n' for n in numbers
    )
    if end:
        text += f'id: {numbers[-1] + 1}\nevent: state\ndata: {{"state": "{end}"}}\n\n'
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Stream(text, error))


def following(*answers: Answer) -> tuple[list[int], Script]:
    script = Script(*answers)
    return [event.seq for event in script.client.events("x")], script


def test_events_go_on_where_the_connection_was_lost():
    seen, script = following(events(3, 5, error=lost()), lost(), events(5, 9, end="SUCCEEDED"))
    assert seen == [3, 5, 9, 10]
    assert [request.headers.get("Last-Event-ID") for request in script.asked] == [None, "5", "5"]


def test_a_stream_that_the_service_ends_early_is_taken_up_again_unless_the_job_has_ended():
    seen, _ = following(events(3), job(state="SEARCHING"), events(4, end="FAILED"))
    assert seen == [3, 4, 5]
    seen, _ = following(events(3), job(state="CANCELLED"))
    assert seen == [3]
    seen, _ = following(httpx.Response(204), job(state="SUCCEEDED"))
    assert seen == []


def test_half_an_event_is_none():
    cut = httpx.Response(
        200, headers={"Content-Type": "text/event-stream"}, stream=Stream('id: 3\nevent: state\ndata: {"state"', lost())
    )
    seen, script = following(cut, events(3, end="SUCCEEDED"))
    assert seen == [3, 4]
    assert script.asked[1].headers.get("Last-Event-ID") is None


def test_a_service_that_stays_away_is_given_up():
    script = Script(events(3, error=lost()), *[lost() for _ in range(20)])
    seen: list[int] = []
    with pytest.raises(UnreachableError):
        seen += [event.seq for event in script.client.events("x", max_tries=3)]
    assert len(script.asked) == 3


@pytest.mark.parametrize("data", ["[1]", "{", "nonsense"])
def test_an_event_that_is_none_is_an_error(data: str):
    answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=f"id: 1\ndata: {data}\n\n")
    with pytest.raises(UnexpectedReplyError, match="event 1"):
        following(answer)


def test_an_endless_line_is_an_error():
    answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text="data: " + "x" * 2**21 + "\n\n")
    with pytest.raises(UnexpectedReplyError, match="an event of more than"):
        following(answer)


def test_a_line_that_never_ends_is_an_error_while_it_arrives():
    class Endless(httpx.SyncByteStream):
        sent = 0

        def __iter__(self) -> Iterator[bytes]:
            while True:
                self.sent += 2**16
                yield b"x" * 2**16

    endless = Endless()
    answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=endless)
    with pytest.raises(UnexpectedReplyError, match="an event of more than"):
        following(answer)
    assert endless.sent < 2**21


def test_an_event_of_many_lines_is_bounded_too():
    answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=("data: " + "x" * 1000 + "\n") * 2000)
    with pytest.raises(UnexpectedReplyError, match="an event of more than"):
        following(answer)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_the_standard_allows(end: str):
    lines = ["id: 1", 'data: {"text": "a\u2028b\x85"}', "", "id: 2", "event: state", 'data: {"state": "SUCCEEDED"}', "", ""]
    answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Stream(end.join(lines)))
    script = Script(answer)
    found = list(script.client.events("x"))
    assert [event.seq for event in found] == [1, 2]
    assert found[0].data == {"text": "a\u2028b\x85"}


def test_the_other_client_does_the_same():
    script = Script(lost(), job(), events(3, 5, error=lost()), events(6, end="SUCCEEDED"), problem(404, "not-found"))

    async def all_of_it() -> list[int]:
        async with AsyncClient("http://127.0.0.1:1", transport=httpx.MockTransport(script)) as client:
            found = await client.submit(**SPEC)
            seen = [event.seq async for event in found.events()]
            with pytest.raises(NotFoundError):
                await client.job("y")
        return seen

    assert asyncio.run(all_of_it()) == [3, 5, 6, 7]
    assert script.asked[0].headers["Idempotency-Key"] == script.asked[1].headers["Idempotency-Key"]


def test_waiting_asks_whether_anything_has_changed(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    tagged: Callable[..., httpx.Response] = lambda status, **more: httpx.Response(  # noqa: E731
        status, headers={"ETag": '"1"', "Retry-After": "5"}, **more
    )
    script = Script(job(), tagged(200, json=JOB), tagged(304), job(state="SUCCEEDED"))
    assert script.client.job("x").wait().state == "SUCCEEDED"
    assert [request.headers.get("If-None-Match") for request in script.asked] == [None, None, '"1"', '"1"']
    assert pauses == [5.0, 5.0]
