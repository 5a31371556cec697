"""Who gets in without a key: nobody once there has been one, and elsewhere only callers of this machine, as the tenant `local`."""

from __future__ import annotations

import datetime
import http.client
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from helpers.running_service import RunningService, running, settings_in

from autoslim.errors import RequestError
from autoslim.service.routers import events
from autoslim.service.serve import describe_access, secure_settings
from autoslim.store import Access


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    """One that has never had a key."""
    with running(settings_in(tmp_path)) as service:
        yield service


def statuses_without_a_key(service: RunningService, job_id: str, **options: object) -> list[int]:
    """Of listing, showing, cancelling, deleting and the metrics."""
    job = f"/v1/jobs/{job_id}"
    requests = [("GET", "/v1/jobs"), ("GET", job), ("POST", f"{job}:cancel"), ("DELETE", job), ("GET", "/metrics")]
    with service.anybody(**options) as nobody:
        return [nobody.request(method, path).status_code for method, path in requests]


def expire(service: RunningService) -> None:
    service.keys.create(tenant="vision", scopes=["admin"], name="short", lifetime=datetime.timedelta(milliseconds=100))
    assert describe_access(service.settings) == "closed: every request needs an API key"
    time.sleep(0.15)


def revoke(service: RunningService) -> None:
    service.key("admin", tenant="vision")
    for key in service.keys.list():
        service.keys.revoke(key.id)


@pytest.mark.parametrize("lose", [revoke, expire])
def test_the_service_stays_closed_when_the_last_key_is_gone(
    service: RunningService, lose: Callable[[RunningService], None]
) -> None:
    jobs = [service.put("vision").id, service.put("local").id]
    lose(service)
    for job_id in jobs:
        assert statuses_without_a_key(service, job_id) == [401] * 5
        assert service.queue.get(job_id).cancel_requested_at is None
    assert describe_access(service.settings).startswith("closed: every request needs an API key, and no key may be used now")
    # So does the next process on the same store.
    with running(service.settings) as again:
        assert statuses_without_a_key(again, jobs[0]) == [401] * 5


def test_the_operator_opens_it_and_the_next_key_closes_it(service: RunningService) -> None:
    revoke(service)
    service.keys.set_access(Access.OPEN)
    assert describe_access(service.settings).startswith("open: whoever is on this machine needs no API key")
    with service.anybody() as nobody:
        assert nobody.get("/v1/jobs").status_code == 200
        service.key()
        assert nobody.get("/v1/jobs").status_code == 401


def test_whoever_has_no_key_sees_and_changes_no_other_tenants_jobs(service: RunningService) -> None:
    theirs, ours = service.put("vision").id, service.put("local").id
    with service.anybody() as nobody:
        assert [job["id"] for job in nobody.get("/v1/jobs").json()["jobs"]] == [ours]
        assert "autoslim_queue_length 1.0" in nobody.get("/metrics").text
    assert statuses_without_a_key(service, theirs) == [200, 404, 404, 404, 200]
    assert service.queue.get(theirs).cancel_requested_at is None
    assert statuses_without_a_key(service, ours) == [200, 200, 202, 204, 200]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=203.0.113.7"},
        {"X-Real-IP": "203.0.113.7"},
        {"Via": "1.1 proxy"},
        {"X-Forwarded-Proto": "https"},
        {"Host": "autoslim.example"},
    ],
)
def test_what_comes_through_a_proxy_on_this_machine_needs_a_key(tmp_path: Path, headers: dict[str, str]) -> None:
    with running(settings_in(tmp_path, allowed_hosts=("127.0.0.1", "autoslim.example"))) as service:
        job = service.put("local").id
        assert statuses_without_a_key(service, job, headers=headers) == [401] * 5
        assert (
            statuses_without_a_key(service, job, headers=headers | {"Authorization": f"Bearer {service.key(tenant='local')}"})[0]
            == 200
        )


class _Proxy(BaseHTTPRequestHandler):
    """Forwards requests without bodies, as a reverse proxy on the same host that adds X-Forwarded-For does."""

    upstream = ""

    def do_GET(self) -> None:
        target = urllib.parse.urlsplit(self.upstream)
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=30)
        connection.request("GET", self.path, headers={"X-Forwarded-For": self.client_address[0]})
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        self.end_headers()
        self.wfile.write(body)
        connection.close()

    def log_message(self, *_: object) -> None:
        pass


def test_a_proxy_on_the_same_host_lets_nobody_in(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Proxy, "upstream", service.url)
    with HTTPServer(("127.0.0.1", 0), _Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            answer = httpx.get(f"http://127.0.0.1:{proxy.server_port}/v1/jobs", trust_env=False)
        finally:
            proxy.shutdown()
            thread.join()
    assert answer.status_code == 401
    assert "through a proxy" in answer.json()["detail"]


def test_the_operator_may_trust_the_network_of_an_open_service_only(tmp_path: Path) -> None:
    settings = secure_settings(settings_in(tmp_path), host="127.0.0.1", insecure=True)
    assert describe_access(settings).startswith("open: whoever reaches it needs no API key")
    with running(settings) as service:
        job, proxied = service.put("vision").id, {"X-Forwarded-For": "203.0.113.7"}
        assert statuses_without_a_key(service, job, headers=proxied) == [200, 404, 404, 404, 200]
        revoke(service)
        assert statuses_without_a_key(service, job, headers=proxied) == [401] * 5


def test_keys_that_are_required_are_required_of_a_new_service_too(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, keys_required=True)
    assert describe_access(settings).startswith("closed:")
    with running(settings) as service:
        assert statuses_without_a_key(service, service.put("local").id) == [401] * 5


def test_the_last_key_may_be_revoked_while_requests_run(service: RunningService) -> None:
    """With the key it is 200 up to some request and never again after it, without one never. A 429 refuses, too."""
    token, done = service.key("read"), threading.Event()
    seen: dict[str, list[int]] = {"with": [], "without": []}

    def ask(name: str, headers: dict[str, str]) -> None:
        with service.anybody(headers=headers) as client:
            while not done.is_set():
                seen[name].append(client.get("/v1/jobs").status_code)

    arguments = [("with", {"Authorization": f"Bearer {token}"}), ("without", {})]
    threads = [threading.Thread(target=ask, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    while not (seen["with"] and seen["without"]):
        time.sleep(0.01)
    service.keys.revoke(service.keys.list()[0].id)
    asked = {name: len(statuses) for name, statuses in seen.items()}
    # One request may have been authenticated before the revocation and be answered after it.
    while any(len(statuses) < asked[name] + 5 for name, statuses in seen.items()):
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert seen["with"][0] == 200
    assert set(seen["with"][asked["with"] + 2 :]) <= {401, 429}
    assert set(seen["without"]) <= {401, 429}


def test_a_stream_ends_when_its_key_is_revoked(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_CHECK_SECONDS", 0.0)
    job = service.put("vision").id
    with (
        service.anybody(headers={"Authorization": f"Bearer {service.key('read', tenant='vision')}"}) as client,
        client.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as stream,
    ):
        lines = stream.iter_lines()
        assert any(line.startswith("event: state") for line in lines)
        service.keys.revoke(service.keys.list()[0].id)
        service.queue.request_cancel(job)
        # The event after the revocation is not sent.
        assert not [line for line in lines if line.startswith("event:")]


def test_opening_is_refused_while_a_key_may_be_used(service: RunningService) -> None:
    service.key()
    with pytest.raises(RequestError, match="revoke them"):
        service.keys.set_access(Access.OPEN)
