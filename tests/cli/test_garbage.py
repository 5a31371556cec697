"""`autoslim admin gc`: what is old enough is shown, and deleted when it is asked for; what is in use or somebody else's stays."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoslim.core import removal
from autoslim.core.folder_lock import LOCK, FolderLock, FolderUse
from autoslim.core.pid_namespace import pid_namespace
from autoslim.core.urls import default_url
from autoslim.store import Queue, QueueState, schema
from workers.service.process_identity import ProcessIdentity

Command = Callable[..., tuple[int, str, str]]
DAY = 86_400


class Service:
    """A root folder with jobs that ended some days ago, each with a checkpoint, an image cache, a model and a log."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.queue = Queue(default_url(root))

    def job(self, days: float, **spec: Any) -> str:
        job, _ = self.queue.submit(json.dumps(spec), tenant="me")
        ended = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
        values = {"state": QueueState.SUCCEEDED.value, "ended_at": ended.isoformat(timespec="milliseconds")}
        with self.queue._database.writing() as connection:
            connection.execute(schema.queue.update().where(schema.queue.c.id == job.id).values(**values))
        for name in ("trials/ab/model.pt", "cache/images.arrow", "models/50%/model.safetensors", "logs/attempt-1.log"):
            path = self.folder(job.id) / name
            path.parent.mkdir(parents=True)
            path.write_bytes(bytes(10_000))
        return job.id

    def record(self, job: str, *, attempt: int, space: str) -> Path:
        """That of a driver, as the supervisor writes it."""
        path = self.root / "drivers" / f"{job}-a{attempt}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(ProcessIdentity(pid=1, space=space, started="0").to_json())
        return path

    def folder(self, job: str) -> Path:
        return self.root / "jobs" / job

    def ids(self) -> set[str]:
        return {job.id for job in self.queue.list()}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "root")
    yield service
    service.queue.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a file of decoded images and one of hashes that were used 40 days ago, and one of each that were used yesterday."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("AUTOSLIM_CACHE", str(folder))
    for name, days in (
        ("pixels/a-8x8/old.pixels", 40),
        ("pixels/a-8x8/new.pixels", 1),
        ("examined/old", 40),
        ("examined/new", 1),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10_000))
        os.utime(path, (time.time() - days * DAY,) * 2)
    (folder / "pixels" / "lock").touch()
    return folder


def collect(autoslim: Command, service: Service, *flags: str) -> dict[str, Any]:
    code, out, err = autoslim("admin", "gc", "--root", str(service.root), "--json", *flags)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def deleted(told: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["kind"] for item in told["items"]}


def test_nothing_is_deleted_unless_it_is_asked_for(autoslim: Command, service: Service, cache: Path) -> None:
    job = service.job(days=8)
    everything = sorted(path for folder in (service.root, cache) for path in folder.rglob("*"))
    code, out, err = autoslim("admin", "gc", "--root", str(service.root))
    assert (code, "nothing was deleted; --yes deletes this and frees" in err) == (0, True), err
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["checkpoints", job],
        ["caches", str(cache / "pixels")],
        ["caches", str(cache / "examined")],
    ]
    assert everything == sorted(path for path in everything if path.exists())


def test_of_an_ended_job_go_first_its_checkpoints_and_later_the_job(autoslim: Command, service: Service, cache: Path) -> None:
    young, middle, old = (service.job(days=days) for days in (2, 10, 100))
    told = collect(autoslim, service, "--jobs", "90d", "--caches", "never", "--yes")
    assert deleted(told) == {middle: "checkpoints", old: "jobs"}
    assert told["bytes"] == told["freed_bytes"] == 60_000
    assert service.ids() == {young, middle}
    assert not service.folder(old).exists()
    assert sorted(path.name for path in service.folder(middle).iterdir()) == ["logs", "models"]
    assert sorted(path.name for path in service.folder(young).iterdir()) == ["cache", "logs", "models", "trials"]
    again = collect(autoslim, service, "--jobs", "90d", "--caches", "never", "--yes")
    assert (again["items"], again["kept"], again["bytes"]) == ([], {}, 0)


def test_jobs_and_models_are_never_deleted_by_default(autoslim: Command, service: Service, cache: Path) -> None:
    job = service.job(days=10_000)
    collect(autoslim, service, "--yes")
    assert service.ids() == {job}
    assert (service.folder(job) / "models/50%/model.safetensors").is_file()


@pytest.mark.parametrize("reuse", ["id", "all"])
def test_what_a_queued_job_reuses_stays_until_that_has_ended(
    autoslim: Command, service: Service, cache: Path, reuse: str
) -> None:
    job = service.job(days=100)
    waiting, _ = service.queue.submit(json.dumps({"reuse": [job if reuse == "id" else "all"]}), tenant="me")
    told = collect(autoslim, service, "--jobs", "90d", "--caches", "never", "--yes")
    assert (told["items"], told["kept"]) == ([], {job: f"job {waiting.id} reuses it and has not ended"})
    assert (service.folder(job) / "trials").is_dir()
    service.queue.request_cancel(waiting.id)
    assert deleted(collect(autoslim, service, "--jobs", "90d", "--caches", "never", "--yes")) == {job: "jobs"}


def test_another_tenants_job_that_reuses_all_of_its_own_keeps_nothing(autoslim: Command, service: Service, cache: Path) -> None:
    job = service.job(days=100)
    service.queue.submit(json.dumps({"reuse": ["all"]}), tenant="them")
    assert deleted(collect(autoslim, service, "--caches", "never", "--yes")) == {job: "checkpoints"}


def test_unfinished_jobs_and_those_whose_driver_is_there_stay(autoslim: Command, service: Service, cache: Path) -> None:
    busy = service.job(days=100)
    service.record(busy, attempt=1, space=pid_namespace())
    queued = service.queue.submit("{}", tenant="me")[0].id
    (service.folder(queued) / "trials").mkdir(parents=True)
    told = collect(autoslim, service, "--jobs", "90d", "--yes")
    assert told["kept"] == {busy: "its driver has not ended, or no supervisor has run since"}
    assert service.ids() == {busy, queued}
    assert (service.folder(queued) / "trials").is_dir()


def test_a_driver_of_another_boot_keeps_its_job_for_a_day_and_its_record_goes_with_what_is_deleted(
    autoslim: Command, service: Service, cache: Path
) -> None:
    """Its machine or container may be gone, and with it the supervisor that would delete the record."""
    young, old, older = (service.job(days=days) for days in (0.5, 10, 100))
    records = [service.record(job, attempt=attempt, space="another-boot/1") for job in (young, old, older) for attempt in (1, 2)]
    told = collect(autoslim, service, "--checkpoints", "1h", "--jobs", "90d", "--caches", "never")
    assert deleted(told) == {old: "checkpoints", older: "jobs"}
    assert all(record.exists() for record in records), "looking deletes nothing"
    told = collect(autoslim, service, "--checkpoints", "1h", "--jobs", "90d", "--caches", "never", "--yes")
    assert deleted(told) == {old: "checkpoints", older: "jobs"}
    assert list(told["kept"]) == [young]
    assert "until a day after the job's end" in told["kept"][young]
    assert [record for record in records if record.exists()] == records[:2]


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_record_that_names_no_process_is_of_no_driver_of_here(
    autoslim: Command, service: Service, cache: Path, content: str
) -> None:
    job = service.job(days=10)
    record = service.record(job, attempt=1, space=pid_namespace())
    record.write_text(content)
    assert deleted(collect(autoslim, service, "--caches", "never", "--yes")) == {job: "checkpoints"}
    assert not record.exists()


def test_a_driver_of_here_keeps_its_job_beside_a_record_of_another_boot(autoslim: Command, service: Service, cache: Path) -> None:
    job = service.job(days=100)
    records = [service.record(job, attempt=1, space="another-boot/1"), service.record(job, attempt=2, space=pid_namespace())]
    told = collect(autoslim, service, "--jobs", "90d", "--caches", "never", "--yes")
    assert (told["items"], told["kept"]) == ([], {job: "its driver has not ended, or no supervisor has run since"})
    assert all(record.exists() for record in records)


def test_a_link_is_not_followed_out_of_the_jobs_folder(autoslim: Command, service: Service, cache: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "trials").mkdir(parents=True)
    (outside / "kept").touch()
    linked, held = service.job(days=100), service.job(days=100)
    service.folder(linked).rename(tmp_path / "moved")
    service.folder(linked).symlink_to(outside)
    (service.folder(held) / "trials" / "link").symlink_to(outside)
    told = collect(autoslim, service, "--jobs", "90d", "--yes")
    assert told["kept"] == {linked: f"{service.folder(linked)} is a link"}
    assert service.ids() == {linked}
    assert (outside / "kept").is_file() and (outside / "trials").is_dir()


def test_files_of_other_users_stay(autoslim: Command, service: Service, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = service.job(days=100)
    # To the process everything is another user's.
    monkeypatch.setattr(removal.os, "geteuid", lambda: os.getuid() + 1)
    told = collect(autoslim, service, "--jobs", "90d", "--yes")
    assert told["items"] == []
    assert told["kept"] == {
        job: "it has files of other users",
        str(cache / "pixels"): "1 files belong to other users",
        str(cache / "examined"): "1 files belong to other users",
    }
    assert service.ids() == {job}
    assert (cache / "pixels/a-8x8/old.pixels").is_file()


def test_files_of_the_cache_go_when_they_were_not_used_for_long(autoslim: Command, service: Service, cache: Path) -> None:
    told = collect(autoslim, service, "--yes")
    assert deleted(told) == {str(cache / "pixels"): "caches", str(cache / "examined"): "caches"}
    assert {path.name for path in cache.rglob("*") if path.is_file() and path.name != "lock"} == {"new.pixels", "new"}


def test_what_came_from_an_object_store_goes_as_a_whole(
    autoslim: Command, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "own-cache"
    monkeypatch.setenv("AUTOSLIM_CACHE", str(cache))
    for folder, days in itertools.product(("storage", "prepared"), (40, 1)):
        path = cache / folder / f"{days} days" / "deep" / "images"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(10_000))
        os.utime(path.parents[1], (time.time() - days * DAY,) * 2)
        (cache / folder / f"{days} days.lock").touch()
    told = collect(autoslim, service, "--yes")
    assert deleted(told) == {str(cache / "storage"): "caches", str(cache / "prepared"): "caches"}
    assert told["bytes"] == 20_000
    assert sorted(path.parents[1].name for path in cache.rglob("images")) == ["1 days", "1 days"]
    assert sorted(path.name for path in cache.rglob("* days.lock")) == ["1 days.lock", "1 days.lock"]


def aged(folder: Path, days: float) -> Path:
    """A search's folder in which a file was written last so many days ago."""
    (folder / "trials" / "ab").mkdir(parents=True)
    (folder / "trials" / "ab" / "checkpoint").write_bytes(bytes(10_000))
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


def test_the_folder_of_an_output_in_an_object_store_goes_unless_a_search_writes_or_works_there(
    autoslim: Command, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "own-cache" / "runs"
    monkeypatch.setenv("AUTOSLIM_CACHE", str(runs.parent))
    old, locked, written = (aged(runs / name, 40) for name in ("old", "locked", "written"))
    os.utime(written / "trials" / "ab" / "checkpoint")
    (old / LOCK).touch()
    with FolderLock(locked, FolderUse.SEARCH):
        # Looking is no use.
        assert deleted(collect(autoslim, service)) == {str(runs): "caches"}
        told = collect(autoslim, service, "--yes")
    assert deleted(told) == {str(runs): "caches"}
    assert told["kept"] == {str(locked): "a search works in it"}
    assert told["bytes"] == 10_000
    assert sorted(path.name for path in runs.iterdir() if path.is_dir()) == ["locked", "written"]


def test_the_folder_of_an_output_in_an_object_store_stays_for_a_day(
    autoslim: Command, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "own-cache" / "runs"
    monkeypatch.setenv("AUTOSLIM_CACHE", str(runs.parent))
    aged(runs / "yesterday", 1.1)
    aged(runs / "today", 0.9)
    assert deleted(collect(autoslim, service, "--caches", "1h", "--yes")) == {str(runs): "caches"}
    assert [path.name for path in runs.iterdir() if path.is_dir()] == ["today"]


def test_a_file_that_is_used_between_looking_and_deleting_stays(cache: Path) -> None:
    from autoslim.data.unused_cache import unused_files

    (pixels,) = (found for found in unused_files(30 * DAY) if found.folder.name == "pixels")
    (old,) = pixels.files
    os.utime(old)
    pixels.remove()
    assert old.is_file()


def test_what_has_another_name_elsewhere_frees_nothing(autoslim: Command, service: Service, cache: Path, tmp_path: Path) -> None:
    os.link(cache / "pixels/a-8x8/old.pixels", tmp_path / "of-a-search")
    os.utime(cache / "examined/old")
    told = collect(autoslim, service)
    assert (told["freed_bytes"], told["bytes"]) == (0, 10_000)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--jobs", "soon", "--jobs is 'soon'; allowed: weeks, days, hours, minutes and seconds"),
        ("--checkpoints", "59m", "--checkpoints is '59m'; allowed: 1h00m and more, or never"),
    ],
)
def test_an_age_that_is_none_or_too_short_is_refused(
    autoslim: Command, service: Service, flag: str, value: str, said: str
) -> None:
    code, _, err = autoslim("admin", "gc", "--root", str(service.root), flag, value)
    assert (code, said in err) == (2, True), err


def test_what_cannot_be_deleted_is_an_error_that_names_it(
    autoslim: Command, service: Service, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = service.job(days=100)

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(removal.shutil, "rmtree", refuse)
    code, _, err = autoslim("admin", "gc", "--root", str(service.root), "--jobs", "90d", "--yes")
    assert (code, f"{service.folder(job)} cannot be deleted: Permission denied" in err) == (2, True), err
    assert service.ids() == {job}
