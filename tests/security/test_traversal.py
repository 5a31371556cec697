"""Nothing outside the folder of the asker's own job, and nothing outside the operator's roots, whatever a path looks like."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.running_service import SPEC, RunningService

from autoslim.service.catalog import Catalog

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


@pytest.mark.slow
@pytest.mark.short
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


def test_a_probe_is_a_data_set_under_the_roots_as_well(client: httpx.Client) -> None:
    for text in ("/etc", "../outside", "./../outside"):
        answer = client.post("/v1/jobs", json=SPEC | {"weights": "pretrained", "objective": "features", "probe": text})
        assert answer.status_code == 422, answer.text
        assert "/probe" in [error["pointer"] for error in answer.json()["errors"]]


def test_labels_of_patches_are_in_a_folder_under_the_roots_as_well(client: httpx.Client) -> None:
    for text in ("/etc", "../outside", "./../outside"):
        answer = client.post("/v1/jobs", json=SPEC | {"token_labels": text})
        assert answer.status_code == 422, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/token_labels"]


def test_what_is_outside_is_told_alike_whether_it_exists_or_not(client: httpx.Client) -> None:
    told = [client.post("/v1/jobs", json=SPEC | {"data": path}).json()["errors"][0]["detail"] for path in ("/etc", "/etd")]
    assert told[0].replace("/etc", "/etd") == told[1]


LONG = [
    "x" * 256,
    "x" * 5000,
    "/".join(["x" * 200] * 30),
    "é" * 200,
    "a/" * 3000 + "a",
]


@pytest.mark.parametrize("name", LONG, ids=lambda name: str(len(name)))
@pytest.mark.parametrize("field", ["data", "weights", "model"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
def test_a_name_that_is_too_long_for_the_file_system_is_refused(client: httpx.Client, path: str, field: str, name: str) -> None:
    for text in (f"./{name}", name):
        answer = client.post(path, json=SPEC | {field: text})
        assert answer.status_code == 422, answer.text[:300]
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"/{field}"]


def test_links_in_a_circle_are_refused(service: RunningService, client: httpx.Client) -> None:
    (root,) = service.settings.data_roots
    for name, other in (("here", "there"), ("there", "here")):
        if not (root / name).is_symlink():
            os.symlink(root / other, root / name)
    answer = client.post("/v1/jobs", json=SPEC | {"data": "./here"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/data")


@pytest.mark.parametrize("layout", ["parquet", "images"])
def test_a_data_set_with_a_link_out_of_its_folder_is_refused_in_every_layout(
    service: RunningService, client: httpx.Client, outside: Path, layout: str
) -> None:
    (root,) = service.settings.data_roots
    folder = root / f"linked-{layout}"
    if layout == "parquet":
        _write_parquet(outside / "train.parquet")
        folder.mkdir(exist_ok=True)
        link, target = folder / "train.parquet", outside / "train.parquet"
    else:
        for name in ("cat", "dog"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "0.png").write_bytes(b"\x89PNG")
        link, target = folder / "cat" / "1.png", outside / "secret.png"
        target.write_bytes(SECRET)
    if not link.is_symlink():
        os.symlink(target, link)
    for path in ("/v1/plans", "/v1/jobs"):
        answer = client.post(path, json=SPEC | {"data": f"./{folder.name}"})
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error["pointer"]) == (422, "/data")
        assert "is a link that leads out of" in error["detail"]
        assert str(root) not in answer.text


def _write_parquet(path: Path) -> None:
    image = pa.array([{"bytes": b"x", "path": "x"}] * 4, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": image, "label": pa.array([0, 1, 0, 1])}), path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_models_folder_with_a_link_out_of_the_roots_is_refused(
    service: RunningService, client: httpx.Client, outside: Path, name: str
) -> None:
    (root,) = service.settings.model_roots
    folder = root / f"linked-{name}"
    folder.mkdir(exist_ok=True)
    (outside / "config.json").write_text('{"architecture": "deit_tiny_patch16_224"}')
    (outside / "model.safetensors").write_bytes(SECRET)
    (folder / "config.json").write_text((outside / "config.json").read_text())
    (folder / name).unlink(missing_ok=True)
    os.symlink(outside / name, folder / name)
    answer = client.post("/v1/jobs", json=SPEC | {"model": f"./{folder.name}"})
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["pointer"]) == (422, "/model")
    assert f"whose {name} is a link that leads out of the model roots" in error["detail"]


def test_a_link_within_the_roots_is_followed_as_in_the_cache_of_a_model_hub(service: RunningService) -> None:
    (root,) = service.settings.model_roots
    (root / "blobs").mkdir(exist_ok=True)
    (root / "blobs" / "1").write_text("{}")
    snapshot = root / "snapshot"
    snapshot.mkdir(exist_ok=True)
    if not (snapshot / "config.json").is_symlink():
        os.symlink("../blobs/1", snapshot / "config.json")
    assert Catalog(service.settings)._model("./snapshot", ()) == str(snapshot.resolve())
