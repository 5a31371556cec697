"""Nothing outside the folder of the asker's own job, and nothing outside the operator's roots, whatever a path looks like."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from helpers.running_service import SPEC, RunningService

SECRET = b"canary-of-the-file-outside"


@pytest.fixture
def job_id(service: RunningService, tenant: str, outside: Path) -> str:
    job = service.put(tenant)
    folder = service.settings.folder(job.id)
    (folder / "models" / "50%").mkdir(parents=True)
    (folder / "models" / "50%" / "README.md").write_bytes(b"# card")
    (folder / "logs").mkdir()
    (folder / "job.json").write_bytes(SECRET)
    (outside / "secret.txt").write_bytes(SECRET)
    return job.id


def raw(service: RunningService, target: str, key: str) -> bytes:
    """The target exactly as it is written: clients put paths in order before they send them."""
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        lines = [f"GET {target} HTTP/1.1", f"Host: {address.netloc}", f"Authorization: Bearer {key}", "Connection: close", "", ""]
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


PATHS = [
    "../job.json",
    "models/../job.json",
    "models/50%25/../../job.json",
    "..%2fjob.json",
    "%2e%2e/job.json",
    "%2e%2e%2fjob.json",
    "..%252fjob.json",
    "..%5cjob.json",
    "....//job.json",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "models/50%25/README.md%00",
    "models%2f50%25%2f..%2f..%2fjob.json",
    "job.json",
    "logs/attempt-1.log",
    "../../../../../../outside/secret.txt",
    "file:///etc/passwd",
    "%c0%ae%c0%ae/job.json",
    "models",
    "models/",
    ".",
    "",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_is_not_listed_leads_nowhere(service: RunningService, job_id: str, tenant: str, path: str) -> None:
    answer = raw(service, f"/v1/jobs/{job_id}/artifacts/{path}", service.key("read", tenant=tenant))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 307", b"HTTP/1.1 400")), answer[:200]
    assert SECRET not in answer
    assert b"root:" not in answer


def test_the_listed_file_is_there_all_the_same(service: RunningService, job_id: str, tenant: str) -> None:
    answer = raw(service, f"/v1/jobs/{job_id}/artifacts/models/50%25/README.md", service.key("read", tenant=tenant))
    assert answer.endswith(b"# card")


@pytest.mark.parametrize(
    "link", ["models/50%/link.md", "models/tree", "models", "front.html", "logs/attempt-9.log", "trials.parquet"]
)
def test_links_are_not_followed(service: RunningService, client: httpx.Client, job_id: str, outside: Path, link: str) -> None:
    path = service.settings.folder(job_id) / link
    if path.is_dir():
        path.rename(path.with_name("was"))
    os.symlink(outside if link in ("models", "models/tree") else outside / "secret.txt", path)
    listed = [artifact["name"] for artifact in client.get(f"/v1/jobs/{job_id}/artifacts").json()["artifacts"]]
    assert not any("secret" in name or name == link for name in listed)
    for name in (link, f"{link}/secret.txt"):
        answer = client.get(f"/v1/jobs/{job_id}/artifacts/{name}")
        assert (answer.status_code, SECRET in answer.content) == (404, False)
    assert client.get(f"/v1/jobs/{job_id}/logs", params={"attempt": 9}).status_code == 404


def test_a_whole_job_folder_that_is_a_link_is_not_followed(
    service: RunningService, client: httpx.Client, tenant: str, outside: Path
) -> None:
    job = service.put(tenant)
    (outside / "models").mkdir(exist_ok=True)
    (outside / "models" / "stolen.txt").write_bytes(SECRET)
    service.settings.folder(job.id).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(outside, service.settings.folder(job.id))
    assert client.get(f"/v1/jobs/{job.id}/artifacts/models/stolen.txt").status_code == 404
    service.queue.request_cancel(job.id)
    assert client.delete(f"/v1/jobs/{job.id}").status_code == 204
    assert (outside / "models" / "stolen.txt").read_bytes() == SECRET


def test_a_pipe_holds_nobody_up(service: RunningService, client: httpx.Client, job_id: str) -> None:
    os.mkfifo(service.settings.folder(job_id) / "front.html")
    assert client.get(f"/v1/jobs/{job_id}/artifacts", timeout=10).status_code == 200
    assert client.get(f"/v1/jobs/{job_id}/artifacts/front.html", timeout=10).status_code == 404


@pytest.mark.parametrize(
    "data",
    [
        "/etc",
        "/etc/passwd",
        "../outside",
        "../../etc",
        "./../outside",
        "x/../../outside",
        "~root",
        "~/x",
        "link-out",
        "link-out/x",
        "/proc/self/environ",
        "/dev/zero",
        "digits/../../outside",
        "..",
        ".",
        "/",
    ],
)
@pytest.mark.parametrize("field", ["data", "weights", "model"])
def test_a_spec_names_nothing_outside_the_roots(
    service: RunningService, client: httpx.Client, outside: Path, field: str, data: str
) -> None:
    for root in (*service.settings.data_roots, *service.settings.model_roots):
        if not (root / "link-out").is_symlink():
            os.symlink(outside, root / "link-out")
    answer = client.post("/v1/jobs", json=SPEC | {field: data})
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == f"/{field}"


def test_what_is_outside_is_told_alike_whether_it_exists_or_not(client: httpx.Client) -> None:
    told = [client.post("/v1/jobs", json=SPEC | {"data": path}).json()["errors"][0]["detail"] for path in ("/etc", "/etd")]
    assert told[0].replace("/etc", "/etd") == told[1]
