"""Files and folders come from a store into the cache once, whole and within it."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autoslim.errors import OutputError, StorageError
from autoslim.storage import StorageUri, copying, download, download_file, fetch, list_files, local_file, look, open_file, stat
from autoslim.storage.listing import Listing, RemoteFile

FILES = {"train/0.bin": b"zero", "train/deep/1.bin": b"one", "test.bin": b"", "a b%20c#.bin": b"odd"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "store" / "flowers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "store" / "flowers"


@pytest.fixture
def uri(store: Path) -> StorageUri:
    return StorageUri.parse(store.as_uri())


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_lies_there(uri: StorageUri) -> None:
    files = list_files(uri)
    assert {file.name: file.size for file in files} == {name: len(content) for name, content in FILES.items()}
    assert [file.name for file in files] == sorted(FILES)
    found = stat(uri / "train/0.bin")
    assert found is not None
    assert (found.name, found.size, found.version != "") == ("0.bin", 4, True)
    assert stat(uri) is None
    assert stat(uri / "nowhere") is None
    with open_file(uri / "train/deep/1.bin") as file:
        file.seek(1)
        assert file.read() == b"ne"


def test_a_folder_is_fetched_once_for_each_content(uri: StorageUri, store: Path, tmp_path: Path) -> None:
    listing = look(uri)
    found = fetch(listing, tmp_path / "cache")
    assert (found.name, content_of(found)) == ("flowers", FILES)
    shutil.move(store, tmp_path / "elsewhere")
    assert fetch(listing, tmp_path / "cache") == found, "what is there is not asked for again"
    shutil.move(tmp_path / "elsewhere", store)
    (store / "test.bin").write_bytes(b"more")
    changed = look(uri)
    assert changed.digest != listing.digest
    assert fetch(changed, tmp_path / "cache") != found
    assert (found / "test.bin").read_bytes() == b""


def test_a_file_keeps_its_name(uri: StorageUri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "cache"))
    found = local_file(str(uri / "train/0.bin"))
    assert (found.name, found.read_bytes(), found.is_relative_to(tmp_path / "cache")) == ("0.bin", b"zero", True)
    assert local_file("train/0.bin") == Path("train/0.bin")
    with pytest.raises(StorageError, match=r"/flowers is no file; allowed: a file that is there"):
        local_file(str(uri))
    download_file(uri / "train/0.bin", tmp_path / "there" / "1.bin")
    assert (tmp_path / "there" / "1.bin").read_bytes() == b"zero"


def test_what_a_killed_process_has_downloaded_is_not_downloaded_again(
    uri: StorageUri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing, whole, loaded = look(uri), download._download, []

    def fail_at_the_end(uri: StorageUri, target: Path, size: int) -> None:
        if len(loaded) == len(FILES) - 1:
            raise KeyboardInterrupt
        loaded.append(target.name)
        whole(uri, target, size)

    monkeypatch.setattr(copying, "STREAMS", 1)
    monkeypatch.setattr(download, "_download", fail_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        fetch(listing, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "storage").iterdir() if path.is_dir() and path.suffix != ".partial"]
    again: list[str] = []
    monkeypatch.setattr(download, "_download", lambda *one: (again.append(one[1].name), whole(*one)))
    assert content_of(fetch(listing, tmp_path / "cache")) == FILES
    assert sorted(loaded + again) == sorted(Path(name).name for name in FILES)


def test_of_several_who_ask_at_once_one_downloads(uri: StorageUri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, loaded = download._download, []
    monkeypatch.setattr(download, "_download", lambda *one: (loaded.append(one[1].name), whole(*one)))
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: fetch(look(uri), tmp_path / "cache"), range(4)))
    assert (len(found), len(loaded)) == (1, len(FILES))


def test_a_file_that_is_replaced_meanwhile_is_refused(uri: StorageUri, store: Path, tmp_path: Path) -> None:
    listing = look(uri)
    (store / "test.bin").write_bytes(b"more")
    with pytest.raises(StorageError, match="has 4 bytes, and its listing says 0: it was replaced meanwhile"):
        fetch(listing, tmp_path / "cache")


def test_names_stay_in_the_cache_and_sizes_on_its_disk(uri: StorageUri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Listing(uri, (RemoteFile("../../../outside", 1, ""),), is_folder=True)
    with pytest.raises(StorageError, match="allowed: parts between single slashes"):
        fetch(outside, tmp_path / "cache")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OutputError, match="free some space, or set AUTOSLIM_CACHE"):
        fetch(look(uri), tmp_path / "cache")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_nothing_is_not_fetched(name: str, store: Path) -> None:
    (store / "empty").mkdir()
    with pytest.raises(StorageError, match=f"flowers/{name} "):
        look(StorageUri.parse((store / name).as_uri()))
