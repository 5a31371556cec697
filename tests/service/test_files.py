"""A job's files: what is listed can be had, in whole or in part, and nothing else can."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import httpx
import pytest
from helpers.running_service import RunningService

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def job_id(service: RunningService, tenant: str) -> str:
    return service.put(tenant).id


@pytest.fixture
def folder(service: RunningService, job_id: str) -> Path:
    """A job's folder as a search leaves it."""
    folder = service.settings.folder(job_id)
    for name, content in {
        "models/50%/model.safetensors": CONTENT,
        "models/50%/README.md": b"# card",
        "models/50%/timm/config.json": b"{}",
        "models/70%.partial/model.safetensors": b"half",
        "models/60%.old/model.safetensors": b"replaced",
        "models/50%/.hidden": b"",
        "front.html": b"<h1>front</h1>",
        "job.json": b'{"storage": "postgresql://autoslim:canary@db/autoslim"}',
        "autoslim.db": b"SQLite",
        "cache/base/model.safetensors": b"base",
        "trials/abc/checkpoint.pt": b"checkpoint",
        "logs/attempt-1.log": b"first\n",
        "logs/attempt-2.log": b"second\nlast line\n",
        "logs/secret.txt": b"no",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def url(job_id: str, name: str = "") -> str:
    return f"/v1/jobs/{job_id}/artifacts" + (f"/{name}" if name else "")


MODEL = "models/50%25/model.safetensors"


def test_what_is_handed_over_is_listed_with_size_and_digest(client: httpx.Client, job_id: str, folder: Path) -> None:
    listed = client.get(url(job_id)).json()["artifacts"]
    assert [artifact["name"] for artifact in listed] == [
        "front.html",
        "models/50%/README.md",
        "models/50%/model.safetensors",
        "models/50%/timm/config.json",
    ]
    model = listed[2]
    assert (model["bytes"], model["sha256"]) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert listed[0]["media_type"] == "text/html; charset=utf-8"
    # A changed file has another digest, although the first one was kept.
    (folder / "models/50%/README.md").write_bytes(b"# other")
    again = client.get(url(job_id)).json()["artifacts"][1]
    assert again["sha256"] == hashlib.sha256(b"# other").hexdigest()


def test_a_job_that_has_not_begun_has_no_files(client: httpx.Client, job_id: str) -> None:
    assert client.get(url(job_id)).json() == {"artifacts": []}
    assert client.get(url(job_id, "front.html")).status_code == 404
    assert client.get(f"/v1/jobs/{job_id}/logs").status_code == 404


def test_a_file_comes_whole_with_its_digest_as_tag(client: httpx.Client, job_id: str, folder: Path) -> None:
    answer = client.get(url(job_id, MODEL))
    assert answer.content == CONTENT
    assert answer.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert answer.headers["content-disposition"] == 'attachment; filename="model.safetensors"'
    assert answer.headers["accept-ranges"] == "bytes"
    again = client.get(url(job_id, MODEL), headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1279990-", 1279990, len(CONTENT)),
        ("bytes=-10", len(CONTENT) - 10, len(CONTENT)),
        ("bytes=-99999999", 0, len(CONTENT)),
        ("bytes=300000-99999999", 300000, len(CONTENT)),
    ],
)
def test_a_range_is_that_part(client: httpx.Client, job_id: str, folder: Path, asked: str, start: int, end: int) -> None:
    answer = client.get(url(job_id, MODEL), headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["bytes=5-1", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=" + "9" * 30 + "-"])
def test_a_range_that_is_none_gives_the_whole(client: httpx.Client, job_id: str, folder: Path, asked: str) -> None:
    answer = client.get(url(job_id, MODEL), headers={"Range": asked})
    assert (answer.status_code, len(answer.content)) == (200, len(CONTENT))


@pytest.mark.parametrize("asked", [f"bytes={len(CONTENT)}-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(client: httpx.Client, job_id: str, folder: Path, asked: str) -> None:
    answer = client.get(url(job_id, MODEL), headers={"Range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")


def test_a_range_of_another_version_gives_the_whole(client: httpx.Client, job_id: str, folder: Path) -> None:
    etag = client.get(url(job_id, MODEL)).headers["etag"]
    same = client.get(url(job_id, MODEL), headers={"Range": "bytes=0-9", "If-Range": etag})
    other = client.get(url(job_id, MODEL), headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)


def test_the_last_log_comes_unless_another_is_asked_for(client: httpx.Client, job_id: str, folder: Path) -> None:
    logs = f"/v1/jobs/{job_id}/logs"
    assert client.get(logs).text == "second\nlast line\n"
    assert client.get(logs).headers["content-type"] == "text/plain; charset=utf-8"
    assert client.get(logs, params={"attempt": 1}).text == "first\n"
    assert client.get(logs, params={"attempt": 3}).status_code == 404
    as_json = client.get(logs, params={"format": "jsonl"})
    assert as_json.status_code == 404, "this attempt has none"
    (folder / "logs" / "attempt-2.jsonl").write_text('{"event": "state"}\n')
    as_json = client.get(logs, params={"format": "jsonl"})
    assert (as_json.json(), as_json.headers["content-type"]) == ({"event": "state"}, "application/x-ndjson")
    assert client.get(logs, params={"format": "xml"}).status_code == 422
    end = client.get(logs, headers={"Range": "bytes=-10"})
    assert (end.status_code, end.text) == (206, "last line\n")


def test_descriptors_are_given_back(client: httpx.Client, job_id: str, folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        client.get(url(job_id, MODEL), headers={"Range": "bytes=0-0"})
        client.get(url(job_id, MODEL), headers={"Range": "bytes=99999999-"})
        client.get(f"/v1/jobs/{job_id}/logs")
    assert len(os.listdir("/proc/self/fd")) < before + 10
