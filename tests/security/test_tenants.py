"""Who has no key, the wrong key, or another tenant's: told nothing, not even that there is something."""

from __future__ import annotations

import datetime
import sqlite3
import time
from pathlib import Path

import httpx
import pytest
from helpers.running_service import SPEC, RunningService, running, settings_in

from autoslim.service.settings import RequestLimits
from autoslim.store import ApiKey

READS = ["", "/events", "/trials", "/front", "/logs", "/artifacts", "/artifacts/front.html"]


def requests_of(job_id: str) -> list[tuple[str, str]]:
    here = f"/v1/jobs/{job_id}"
    return [*(("GET", here + part) for part in READS), ("POST", here + ":cancel"), ("DELETE", here)]


def test_another_tenants_job_is_as_if_it_were_not_there(service: RunningService, client: httpx.Client) -> None:
    foreign, never = service.put("somebody-else").id, "01JD4V00000000000000000000"
    folder = service.settings.folder(foreign)
    folder.mkdir(parents=True)
    (folder / "front.html").write_text("theirs")
    for (method, theirs), (_, nobodys) in zip(requests_of(foreign), requests_of(never), strict=True):
        answers = [client.request(method, path) for path in (theirs, nobodys)]
        for answer in answers:
            assert answer.status_code == 404, (method, answer.url)
        told = [{key: value for key, value in answer.json().items() if key != "request_id"} for answer in answers]
        assert told[0] == told[1], (method, theirs)
    stream = client.get(f"/v1/jobs/{foreign}/events", headers={"Accept": "text/event-stream"})
    assert stream.status_code == 404
    assert foreign not in client.get("/v1/jobs", params={"page_size": 200}).text
    assert service.queue.get(foreign).cancel_requested_at is None


def test_an_admin_sees_every_tenants_jobs(service: RunningService) -> None:
    foreign = service.put("somebody-else").id
    with service.client("admin") as admin:
        assert admin.get(f"/v1/jobs/{foreign}").json()["tenant"] == "somebody-else"
        assert foreign in admin.get("/v1/jobs", params={"page_size": 200}).text


@pytest.mark.parametrize(
    "job_id", ["x", "..", "%00", "01jd4v00000000000000000000", "0" * 27, "8" + "0" * 25, "é", "' OR 1=1 --", "*"]
)
def test_an_id_that_is_none_is_not_found(client: httpx.Client, job_id: str) -> None:
    assert client.get(f"/v1/jobs/{job_id}/front").status_code == 404


ROUTES = [
    *requests_of("01JD4V00000000000000000000"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("POST", "/v1/plans"),
    ("GET", "/v1/capabilities"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_needs_a_key(service: RunningService, method: str, path: str) -> None:
    with service.anybody() as nobody:
        answer = nobody.request(method, path)
    assert answer.status_code in (401, 429)
    assert answer.headers["content-type"] == "application/problem+json"
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"] == 'Bearer realm="autoslim"'


def test_no_route_was_forgotten(service: RunningService) -> None:
    paths = service.server._app.openapi()["paths"]
    open_to_all = {path for path, item in paths.items() for operation in item.values() if "security" not in operation}
    assert open_to_all == {"/healthz", "/readyz"}
    assert sum(len(item) for item in paths.values()) == len(ROUTES) + 2


@pytest.fixture
def fresh(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A service of its own, because the one that all tests share remembers who guessed wrong."""
    with running(settings_in(tmp_path)) as fresh:
        yield fresh


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer x",
        "Bearer autoslim_0123456789abcdef_" + "a" * 43,
        "Bearer autoslim_" + "0" * 5000,
        "Basic YTpi",
        "Bearer null",
        "Bearer ' OR 1=1 --",
        "",
        "Bearer \xe9",
    ],
)
def test_a_key_that_is_none_is_refused_also_where_none_is_needed(fresh: RunningService, header: str) -> None:
    with fresh.anybody(headers=[("Authorization", header.encode("latin-1"))]) as client:
        answer = client.get("/v1/jobs")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="autoslim", error="invalid_token"'


def test_a_key_is_good_for_its_scopes_until_it_expires_or_is_revoked(fresh: RunningService) -> None:
    job = fresh.put("t")
    reader, submitter = fresh.key("read", tenant="t"), fresh.key("submit", tenant="t")

    def ask(key: str, method: str, path: str) -> int:
        with fresh.anybody(headers={"Authorization": f"Bearer {key}"}) as client:
            return client.request(method, path, json=SPEC if method == "POST" and path == "/v1/plans" else None).status_code

    assert ask(reader, "GET", f"/v1/jobs/{job.id}") == 200
    assert ask(submitter, "GET", f"/v1/jobs/{job.id}") == 403
    for method, path in (
        ("POST", "/v1/jobs"),
        ("POST", "/v1/plans"),
        ("POST", f"/v1/jobs/{job.id}:cancel"),
        ("DELETE", f"/v1/jobs/{job.id}"),
    ):
        assert ask(reader, method, path) == 403
    assert ask(submitter, "POST", f"/v1/jobs/{job.id}:cancel") == 202
    fresh.keys.revoke(next(key for key in fresh.keys.list() if "submit" in key.scopes).id)
    assert ask(submitter, "POST", f"/v1/jobs/{job.id}:cancel") == 401
    _, short = fresh.keys.create(tenant="t", scopes=["read"], name="short", lifetime=datetime.timedelta(seconds=0.3))
    assert ask(short, "GET", "/v1/jobs") == 200
    time.sleep(0.4)
    assert ask(short, "GET", "/v1/jobs") == 401


def test_whoever_guesses_is_slowed_down(fresh: RunningService) -> None:
    with fresh.anybody(headers={"Authorization": "Bearer autoslim_0123456789abcdef_" + "b" * 43}) as guesser:
        statuses = [guesser.get("/v1/jobs").status_code for _ in range(60)]
        assert statuses[:20] == [401] * 20
        assert statuses[-1] == 429
        assert int(guesser.get("/v1/jobs").headers["retry-after"]) >= 1


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer autoslim_0123456789abcdef_" + "b" * 43}])
def test_whoever_guesses_does_not_lock_out_a_key_at_the_same_address(fresh: RunningService, headers: dict[str, str]) -> None:
    with fresh.client("read") as owner, fresh.anybody(headers=headers) as guesser:
        assert [guesser.get("/v1/jobs").status_code for _ in range(60)][-1] == 429
        assert owner.get("/v1/jobs").status_code == 200


def test_whoever_asks_too_often_is_slowed_down_and_nobody_else(tmp_path: Path) -> None:
    with (
        running(settings_in(tmp_path, limits=RequestLimits(requests_per_second=1, burst=20))) as small,
        small.client("read", tenant="loud") as loud,
        small.client("read", tenant="quiet") as quiet,
    ):
        statuses = [loud.get("/v1/jobs").status_code for _ in range(40)]
        assert (statuses[0], statuses[-1]) == (200, 429)
        assert quiet.get("/v1/jobs").status_code == 200
        assert loud.get("/healthz").status_code == 200


def test_the_store_has_no_key_that_could_be_used(fresh: RunningService, tmp_path: Path) -> None:
    token = fresh.key("read")
    with fresh.anybody(headers={"Authorization": f"Bearer {token}"}) as client:
        client.get("/v1/jobs")
    with sqlite3.connect(tmp_path / "service.db") as database:
        dump = "\n".join(database.iterdump())
    assert token.split("_")[1] in dump
    assert token.split("_", 2)[2] not in dump
    assert "secret" not in ApiKey.__dataclass_fields__
