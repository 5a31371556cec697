"""Bodies that are too large, too deep, broken, late, or of another kind."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from helpers.running_service import SPEC, RunningService

JSON = {"Content-Type": "application/json"}


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text[:500]
    assert answer.json()["code"] == code
    assert len(answer.content) < 5000


def test_a_body_that_says_it_is_too_large_is_not_read(client: httpx.Client) -> None:
    refused(client.post("/v1/jobs", content=b"x" * (2**20 + 1), headers=JSON), 413, "content-too-large")


def test_a_body_that_does_not_say_so_is_not_read_to_its_end(service: RunningService, client: httpx.Client) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(4000):
            sent += 2**16
            yield b"x" * 2**16

    # The service may hang up while the rest is still being sent.
    with contextlib.suppress(httpx.WriteError):
        refused(client.post("/v1/jobs", content=chunks(), headers=JSON), 413, "content-too-large")
    assert sent < 200 * 2**20
    assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"trials": NaN}',
        b'{"trials": 1e999}',
        b'{"trials": ' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"space": ' + b'{"a":' * 100 + b"1" + b"}" * 101,
        b"\x00" * 100,
        b"\xef\xbb\xbf{}",
        b"x" * 2**19,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_malformed_body_is_a_problem_and_not_an_error(client: httpx.Client, body: bytes) -> None:
    refused(client.post("/v1/jobs", content=body, headers=JSON), 422, "invalid-spec")


@pytest.mark.timeout(60)
def test_the_largest_number_of_mistakes_has_an_answer_of_bounded_size(client: httpx.Client) -> None:
    many = {f"field{number}": number for number in range(30_000)}
    answer = client.post("/v1/jobs", json=many)
    assert answer.status_code == 422
    assert "30003 mistakes" in answer.text
    assert len(answer.content) < 2**15


@pytest.mark.slow
def test_a_space_that_would_be_costly_is_refused(client: httpx.Client) -> None:
    deep: dict[str, object] = {}
    for _ in range(50):
        deep = {"methods": deep}
    wide = {"methods": {"sit": {f"k{number}": 1 for number in range(5000)}}}
    for space in (deep, wide):
        answer = client.post("/v1/jobs", json=SPEC | {"space": space})
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/space"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx", ""]
)
def test_a_body_of_another_kind_is_refused(client: httpx.Client, kind: str) -> None:
    answer = client.post("/v1/jobs", content=json.dumps(SPEC).encode(), headers={"Content-Type": kind})
    refused(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("length", ["-1", "1e3", "abc", "9" * 40, "10, 20"])
def test_a_length_that_is_none_ends_the_request(service: RunningService, length: str) -> None:
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(
            f"POST /v1/jobs HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{{}}".encode()
        )
        answer = connection.recv(4096)
    assert answer.split(b" ")[1] in (b"400", b"413")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans", "/healthz"])
@pytest.mark.parametrize("length", [0, 5, 2])
def test_two_lengths_of_one_body_are_refused_and_end_the_connection(service: RunningService, path: str, length: int) -> None:
    address = urlsplit(service.url)
    request = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    request += "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request.encode())
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 400")
    assert b"ambiguous-length" in received
    # What follows is not read as another request.
    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (json.dumps(SPEC)[:-1] + ', "trials": 3, "trials": 4}', ["/trials"]),
        (json.dumps(SPEC)[:-1] + ', "flops": ["70%"]}', ["/flops"]),
        (json.dumps(SPEC)[:-1] + ', "space": {"methods": {"sit": {}, "sit": {}, "dps": {}}}}', ["/space/methods/sit"]),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
def test_a_field_that_is_given_twice_is_refused(client: httpx.Client, path: str, body: str, pointers: list[str]) -> None:
    answer = client.post(path, content=body.encode(), headers=JSON)
    refused(answer, 422, "invalid-spec")
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers
    assert "is given twice" in answer.text


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "\x7f", "é"])
def test_an_idempotency_key_is_printable_and_short(client: httpx.Client, key: str) -> None:
    headers = [("Idempotency-Key", key.encode("latin-1"))]
    answer = client.post("/v1/jobs", json=SPEC, headers=headers)
    refused(answer, 422, "invalid-parameter")
    assert answer.json()["errors"][0]["parameter"] == "Idempotency-Key"


@pytest.mark.parametrize(
    "query",
    [
        "page_size=0",
        "page_size=201",
        "page_size=x",
        "state=RUNNING",
        "page_token=%00",
        "page_token=" + "A" * 300,
        "label=" + "a" * 64,
    ],
)
def test_a_query_that_is_not_allowed_is_a_problem(client: httpx.Client, query: str) -> None:
    refused(client.get(f"/v1/jobs?{query}"), 422, "invalid-parameter")


@pytest.mark.parametrize("label", ["%00", "' OR 1=1 --", "%25", "\u202e", "<script>"])
def test_a_label_is_data(client: httpx.Client, label: str) -> None:
    answer = client.get("/v1/jobs", params={"label": label})
    assert answer.json() == {"jobs": [], "next_page_token": None}
