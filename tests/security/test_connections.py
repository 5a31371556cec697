"""Many connections, and requests that are sent slowly or by halves, keep nobody else out."""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from helpers.running_service import RunningService, running, settings_in

from autoslim.service.settings import RequestLimits

HALF = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "


@contextlib.contextmanager
def serving(folder: Path, **limits: float) -> Iterator[RunningService]:
    with running(settings_in(folder, limits=RequestLimits(**limits))) as service:
        yield service


@contextlib.contextmanager
def connections(url: str, number: int, *, sent: bytes = HALF, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    address = urlsplit(url)
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(number):
            connection = stack.enter_context(
                socket.create_connection((address.hostname or "", address.port or 0), timeout=20, source_address=(source, 0))
            )
            # The service may have closed it in favour of a later one.
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
            found.append(connection)
        yield found


def is_closed(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    try:
        return bool(readable) and connection.recv(4096) == b""
    except ConnectionError:
        return True


def received(connection: socket.socket) -> bytes:
    """Everything until the service closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_hundreds_of_half_sent_requests_shut_nobody_out(tmp_path: Path, source: str) -> None:
    with (
        serving(tmp_path, connections=60, connections_per_address=40) as service,
        connections(service.url, 300, source=source) as half,
        service.anybody() as client,
    ):
        for _ in range(5):
            assert client.get("/v1/jobs").status_code == 200
        assert sum(map(is_closed, half)) >= 260
        assert service.server.server_state._open[source] <= 41


POST = b"POST /v1/plans HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{"


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize("length", [1000, 10**9], ids=["a body that may be sent", "one that is too large"])
def test_hundreds_of_half_sent_bodies_shut_nobody_out_and_are_no_error(
    tmp_path: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        serving(tmp_path, connections=60, connections_per_address=60) as service,
        service.anybody(headers={"Connection": "close"}) as client,
    ):
        with connections(service.url, 300, sent=POST % length):
            for _ in range(5):
                assert client.get("/v1/jobs").status_code == 200
        # Those that are still open are ended by their clients.
        assert client.get("/v1/jobs").status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_the_limit_in_all_holds_across_addresses(tmp_path: Path) -> None:
    with serving(tmp_path, connections=20, connections_per_address=20) as service, contextlib.ExitStack() as stack:
        for number in range(2, 12):
            stack.enter_context(connections(service.url, 10, source=f"127.0.0.{number}"))
        with service.anybody() as client:
            assert client.get("/v1/jobs").status_code == 200
            assert service.server.server_state._open.total() <= 21


def test_headers_that_do_not_arrive_in_time_are_a_408_and_an_end(tmp_path: Path) -> None:
    with serving(tmp_path, header_seconds=0.3) as service, connections(service.url, 1) as (half,):
        head, _, body = received(half).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in head.lower()
        assert json.loads(body)["code"] == "request-timeout"


def test_a_byte_now_and_then_does_not_lengthen_the_time(tmp_path: Path) -> None:
    with serving(tmp_path, header_seconds=0.4) as service, connections(service.url, 1) as (slow,):
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while not is_closed(slow) and time.monotonic() - began < 20:
                slow.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - began < 20


def test_a_connection_that_sends_nothing_is_closed_without_an_answer(tmp_path: Path) -> None:
    with serving(tmp_path, header_seconds=0.2) as service, connections(service.url, 1, sent=b"") as (silent,):
        assert received(silent) == b""


@pytest.mark.parametrize(
    "second",
    [HALF, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx"],
    ids=["half a second request", "a body that nobody reads"],
)
def test_a_kept_alive_connection_has_the_same_time_for_its_next_request(tmp_path: Path, second: bytes) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with serving(tmp_path, header_seconds=0.3) as service, connections(service.url, 1, sent=first) as (connection,):
        answer = b""
        while b'"ok"' not in answer:
            answer += connection.recv(4096)
        connection.sendall(second)
        began = time.monotonic()
        while not is_closed(connection) and time.monotonic() - began < 20:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"x")
            time.sleep(0.05)
        # The keep-alive time of 30 s would be the end without it.
        assert time.monotonic() - began < 20


def test_a_request_that_is_worked_on_is_not_closed_for_others(tmp_path: Path) -> None:
    """An event stream lives on beside as many half-sent requests as you like."""
    with serving(tmp_path, connections=8, connections_per_address=8, header_seconds=0.3) as service:
        job = service.put("local").id
        with (
            service.anybody() as client,
            client.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as stream,
        ):
            lines = stream.iter_lines()
            assert any(line.startswith("event: state") for line in lines)
            with connections(service.url, 50):
                time.sleep(0.5)
            service.queue.request_cancel(job)
            assert any("CANCELLED" in line for line in lines)


def test_where_every_connection_has_a_request_a_further_one_is_refused_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, connections=10, connections_per_address=3) as service, contextlib.ExitStack() as stack:
        job = service.put("local").id
        for _ in range(3):
            client = stack.enter_context(service.anybody())
            stream = stack.enter_context(client.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}))
            assert stream.status_code == 200
        with connections(service.url, 1, sent=b"") as (refused,):
            answer = received(refused)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in answer.lower()
        with connections(service.url, 1, sent=HALF + b"x\r\nConnection: close\r\n\r\n", source="127.0.0.2") as (other,):
            assert received(other).startswith(b"HTTP/1.1 200")


def test_a_websocket_upgrade_is_an_ordinary_request(tmp_path: Path) -> None:
    upgrade = HALF + b"x\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    with serving(tmp_path) as service, connections(service.url, 1, sent=upgrade) as (connection,):
        assert received(connection).startswith(b"HTTP/1.1 200")


def test_connections_are_bounded_by_the_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: a limit that is lowered cannot be raised again."""
    code = (
        "import resource; from autoslim.service.connections import fit_open_files; from autoslim.service.settings import RequestLimits\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1256))\n"
        "print(fit_open_files(RequestLimits()).connections, fit_open_files(RequestLimits(connections=100)).connections)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["500 100", "(1256, 1256)"]


@pytest.mark.slow
def test_two_thousand_half_sent_requests_do_not_shut_out_a_service_with_its_defaults(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 5000:
        pytest.skip(f"the limit of open files is {hard}")
    command = [sys.executable, "-m", "autoslim.cli", "serve", "--no-supervisor", "--port", "0", "--root", str(tmp_path / "root")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        # Not before: the service raises its own limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 5000), hard))
        try:
            with connections(url, 2050):
                for _ in range(10):
                    assert httpx.get(f"{url}/v1/jobs", trust_env=False, timeout=10).status_code == 200
        finally:
            process.terminate()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
