"""Fetching files from a service that may be slow, broken or hostile."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from autoslim.client import Client, PullError
from autoslim.client.replies import JobReply
from autoslim.client.sync_client import Job

JOB = JobReply.model_validate({"id": "01J0000000000000000000000A", "state": "SUCCEEDED", "created_at": "2026-01-02T03:04:05Z"})
MODEL = bytes(range(256)) * 400
CARD = b"# A model\n"


class Service:
    """Has these files. `cut` ends an answer after so many bytes, as often as it says; `ranges` can be switched off."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.listed: dict[str, dict[str, object]] = {}
        self.cut: list[int] = []
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.partition("/artifacts")[2].lstrip("/")
        if not name:
            return httpx.Response(200, json={"artifacts": [self._row(file) for file in self.files]})
        self.asked.append((name, request.headers.get("Range")))
        data, start = self.files[name], 0
        headers = {}
        if self.ranges and (wanted := request.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body, broken = data[start:], bool(self.cut)
        if broken:
            body = body[: self.cut.pop(0)]
        return httpx.Response(206 if headers else 200, headers=headers, stream=_Bytes(body, broken))

    def _row(self, name: str) -> dict[str, object]:
        data = self.files[name]
        row = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "media_type": "x/y"}
        return row | self.listed.get(name, {})

    @property
    def job(self) -> Job:
        return Job(Client("http://127.0.0.1:1", transport=httpx.MockTransport(self)), JOB)


class _Bytes(httpx.SyncByteStream):
    def __init__(self, data: bytes, broken: bool) -> None:
        self.data, self.broken = data, broken

    def __iter__(self):
        yield from (self.data[i : i + 1000] for i in range(0, len(self.data), 1000))
        if self.broken:
            raise httpx.ReadError("connection reset")


def sums(**files: bytes) -> bytes:
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()


@pytest.fixture
def service() -> Service:
    return Service(
        {
            "models/50%/model.safetensors": MODEL,
            "models/50%/README.md": CARD,
            "models/50%/SHA256SUMS": sums(**{"model.safetensors": MODEL, "README.md": CARD}),
            "trials.parquet": b"PAR1",
        }
    )


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def nothing_is_left_but(folder: Path, *allowed: str) -> bool:
    return {entry.name for entry in folder.iterdir()} <= set(allowed)


def test_everything_comes_and_is_what_it_was(service: Service, tmp_path: Path):
    told: list[tuple[int, int]] = []
    folder = service.job.pull(tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert names(folder) == set(service.files)
    assert (folder / "models/50%/model.safetensors").read_bytes() == MODEL
    total = sum(map(len, service.files.values()))
    assert told[-1] == (total, total)
    assert nothing_is_left_but(tmp_path, "out")


def test_one_budgets_model_is_the_folder_itself(service: Service, tmp_path: Path):
    folder = service.job.pull(tmp_path / "out", budget="50%")
    assert names(folder) == {"model.safetensors", "README.md", "SHA256SUMS"}
    with pytest.raises(PullError, match=r"has no model for '70%'; there are: 50%"):
        service.job.pull(tmp_path / "other", budget="70%")


def test_a_lost_connection_is_gone_on_with_where_it_broke_off(service: Service, tmp_path: Path):
    service.cut = [5000, 3000, 0, 0]
    folder = service.job.pull(tmp_path / "out", budget="50%")
    assert (folder / "model.safetensors").read_bytes() == MODEL
    ranges = [wanted for name, wanted in service.asked if name.endswith("model.safetensors")]
    assert ranges == [None, "bytes=5000-", "bytes=8000-", "bytes=8000-", "bytes=8000-"]


def test_a_service_without_ranges_is_asked_for_the_whole_file_again(service: Service, tmp_path: Path):
    service.cut, service.ranges = [5000], False
    folder = service.job.pull(tmp_path / "out", budget="50%")
    assert (folder / "model.safetensors").read_bytes() == MODEL


def test_a_pull_that_was_given_up_is_gone_on_with_by_the_next_one(service: Service, tmp_path: Path):
    service.cut = [5000, 0, 0, 0, 0, 0]
    with pytest.raises(Exception, match="connection reset"):
        service.job.pull(tmp_path / "out", budget="50%")
    assert not (tmp_path / "out").exists()
    service.cut, service.asked = [], []
    assert (service.job.pull(tmp_path / "out", budget="50%") / "model.safetensors").read_bytes() == MODEL
    assert service.asked[0] == ("models/50%/model.safetensors", "bytes=5000-")
    assert nothing_is_left_but(tmp_path, "out")


def test_what_is_there_already_is_not_fetched_again(service: Service, tmp_path: Path):
    service.job.pull(tmp_path / "out")
    service.asked = []
    service.job.pull(tmp_path / "out")
    assert service.asked == []


def test_a_folder_with_something_else_in_it_is_left_alone(service: Service, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PullError, match="exists with other content"):
        service.job.pull(tmp_path / "out")
    assert names(tmp_path) == {"out/mine.txt"}


def test_a_damaged_file_is_refused_and_does_not_stay(service: Service, tmp_path: Path):
    service.listed["models/50%/model.safetensors"] = {"sha256": "0" * 64}
    with pytest.raises(PullError, match="arrived damaged"):
        service.job.pull(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not any(file.name == "model.safetensors" for file in tmp_path.rglob("*"))


def test_files_that_are_not_those_of_the_checksums_are_refused(service: Service, tmp_path: Path):
    service.files["models/50%/README.md"] = b"# Another model\n"
    with pytest.raises(PullError, match=r"50%/README.md differs from its checksum in SHA256SUMS"):
        service.job.pull(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    del service.files["models/50%/README.md"]
    with pytest.raises(PullError, match=r"README.md is in SHA256SUMS and does not exist"):
        service.job.pull(tmp_path / "out")


def test_a_file_that_never_ends_is_cut_off(service: Service, tmp_path: Path):
    service.listed["models/50%/model.safetensors"] = {"bytes": 10_000}
    with pytest.raises(PullError, match="longer than the 10000 bytes"):
        service.job.pull(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_than_fits_on_the_disk_is_refused_before_anything_comes(service: Service, tmp_path: Path):
    service.listed["models/50%/model.safetensors"] = {"bytes": 10**15}
    with pytest.raises(PullError, match="needs 1000000000 MB"):
        service.job.pull(tmp_path / "out")
    assert service.asked == []


@pytest.mark.parametrize(
    "name",
    ["../evil", "/tmp/evil", "models/../../evil", "a\\b", "a//b", "./a", "a/", "", ".", "..", "a\nb", "a\x00b", "a" * 2000],
)
def test_a_name_that_would_lie_elsewhere_is_refused_before_anything_comes(service: Service, tmp_path: Path, name: str):
    service.files[name] = b"evil"
    with pytest.raises(PullError, match="is not inside the folder"):
        service.job.pull(tmp_path / "sub" / "out")
    assert service.asked == []
    assert not any(tmp_path.rglob("*evil*"))


def test_a_file_that_is_a_folder_as_well_is_refused(service: Service, tmp_path: Path):
    service.files["models/50%"] = b""
    with pytest.raises(PullError, match=r"'models/50%' as a file and as a folder"):
        service.job.pull(tmp_path / "out")


def test_checksums_of_files_elsewhere_are_refused(service: Service, tmp_path: Path):
    service.files["models/50%/SHA256SUMS"] = b"0" * 64 + b"  ../../../../../../etc/passwd\n"
    with pytest.raises(PullError, match="is not inside the folder"):
        service.job.pull(tmp_path / "out")


def test_a_job_without_files_says_so(tmp_path: Path):
    with pytest.raises(PullError, match="has no files yet"):
        Service({}).job.pull(tmp_path / "out")
