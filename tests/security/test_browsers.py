"""What a page in somebody's browser could try: another origin, another name for loopback, headers that split, files that run."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import httpx
import pytest
from helpers.running_service import SPEC, RunningService, running, settings_in


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Without keys, as on a laptop: whoever gets through to it may use it."""
    with running(settings_in(tmp_path_factory.mktemp("open"))) as service:
        yield service


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8400",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "169.254.169.254",
        "[::2]",
        "",
        "a@b",
        "[",
        "0",
    ],
)
def test_another_name_for_the_service_is_refused(open_service: RunningService, host: str) -> None:
    with open_service.anybody() as client:
        answer = client.get("/v1/jobs", headers={"Host": host})
    assert answer.status_code in (400, 421)


@pytest.mark.parametrize(
    "host", ["user@127.0.0.1", "user:secret@localhost:8400", "evil.example@localhost", "127.0.0.1:x", "127.0.0.1/", ""]
)
def test_a_host_header_is_a_host_and_a_port_and_nothing_else(open_service: RunningService, host: str) -> None:
    with open_service.anybody() as client:
        answer = client.get("/v1/jobs", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8400"])
def test_its_own_names_are_known(open_service: RunningService, host: str) -> None:
    with open_service.anybody() as client:
        assert client.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_is_not_answered(open_service: RunningService, headers: dict[str, str]) -> None:
    job = open_service.put("local")
    with open_service.anybody(headers=headers) as page:
        for method, path in (("POST", f"/v1/jobs/{job.id}:cancel"), ("GET", "/v1/jobs"), ("DELETE", f"/v1/jobs/{job.id}")):
            answer = page.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "cross-origin-request")
            assert "access-control-allow-origin" not in answer.headers
    assert open_service.queue.get(job.id).cancel_requested_at is None


def test_no_page_is_allowed_to_ask_first(open_service: RunningService) -> None:
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    with open_service.anybody() as client:
        answer = client.options("/v1/jobs", headers=headers)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_tells_browsers_to_keep_their_hands_off(open_service: RunningService) -> None:
    job = open_service.put("local")
    folder = open_service.settings.folder(job.id)
    folder.mkdir(parents=True)
    (folder / "front.html").write_text("<script>alert(1)</script>")
    with open_service.anybody() as client:
        answers = [
            client.get("/v1/jobs"),
            client.get("/nowhere"),
            client.get("/v1/jobs/x"),
            client.post("/v1/jobs", json={}),
            client.post("/v1/jobs", content=b"x" * 2**21),
            client.get("/v1/jobs", headers={"Host": "evil.example"}),
            client.get(f"/v1/jobs/{job.id}/artifacts/front.html"),
        ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'; sandbox"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
    assert answers[-1].headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "value",
    ["a\tb", "a b", "x" * 65, "../..", '"', "é", "<script>", "%0d%0aX-Evil: 1"],
)
def test_a_request_id_that_could_do_harm_is_replaced(open_service: RunningService, value: str) -> None:
    with open_service.anybody() as client:
        answer = client.get("/healthz", headers=[("X-Request-Id", value.encode())])
    assert answer.headers["x-request-id"] != value
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    "lines",
    ["X-Request-Id: a\r\n Set-Cookie: evil=1", "X-Request-Id: a\rSet-Cookie: evil=1", "X-Request-Id: a\x00b", "Bad Name: x"],
)
def test_a_header_that_splits_is_not_passed_on(open_service: RunningService, lines: str) -> None:
    address = urlsplit(open_service.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        request = f"GET /healthz HTTP/1.1\r\nHost: {address.netloc}\r\n{lines}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("latin-1"))
        answer = connection.recv(65536)
    assert b"set-cookie" not in answer.lower()
    assert answer.split(b" ")[1] in (b"200", b"400")


def test_a_name_of_a_file_does_not_break_its_header(open_service: RunningService) -> None:
    job = open_service.put("local")
    folder = open_service.settings.folder(job.id) / "models"
    folder.mkdir(parents=True)
    (folder / 'a";\r\nX-Evil: 1\n.txt').write_text("x")
    (folder / 'b"; filename=evil.exe').write_text("y")
    with open_service.anybody() as client:
        (listed,) = client.get(f"/v1/jobs/{job.id}/artifacts").json()["artifacts"]
        answer = client.get(f"/v1/jobs/{job.id}/artifacts/{quote(listed['name'])}")
    assert answer.text == "y"
    assert answer.headers["content-disposition"] == 'attachment; filename="b___filename_evil.exe"'


def test_the_answers_of_a_job_cannot_be_taken_for_a_page(open_service: RunningService) -> None:
    with open_service.anybody() as client:
        answer = client.post("/v1/jobs", json=SPEC | {"sampler": "<script>alert(1)</script>"})
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_service_with_many_headers_keeps_its_head(open_service: RunningService) -> None:
    with open_service.anybody() as client:
        with contextlib.suppress(httpx.TransportError):
            answer = client.get("/healthz", headers=[(f"X-{number}", "v" * 100) for number in range(2000)])
            assert answer.status_code in (400, 431)
        assert client.get("/healthz").status_code == 200
