"""Folders go to a store with the file that says they are whole behind all others."""

from __future__ import annotations

import gc
import io
import os
import time
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from autoslim.errors import StorageError, UnavailableError
from autoslim.storage import StorageUri, objects, upload, upload_file, upload_folder

if TYPE_CHECKING:
    from typing_extensions import Buffer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    for name in ("a.bin", "deep/z.bin", "config.json"):
        (tmp_path / "model" / name).write_text(name)
    return tmp_path / "model"


def test_the_last_file_is_written_last(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order, whole = [], upload.upload_file
    monkeypatch.setattr(upload, "upload_file", lambda path, uri: (whole(path, uri), order.append(path.name)))
    upload_folder(folder, StorageUri.parse((tmp_path / "to/there").as_uri()), last="config.json")
    assert (sorted(order[:2]), order[2]) == (["a.bin", "z.bin"], "config.json")
    written = {path.relative_to(tmp_path / "to/there").as_posix() for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert written == {"a.bin", "deep/z.bin", "config.json"}
    assert (tmp_path / "to/there/deep/z.bin").read_text() == "deep/z.bin"


def test_it_is_not_written_where_another_one_fails(folder: Path, tmp_path: Path) -> None:
    # A file where a folder is needed.
    (tmp_path / "to").mkdir()
    (tmp_path / "to/deep").write_text("in the way")
    with pytest.raises(StorageError, match=r"deep/z\.bin cannot be written"):
        upload_folder(folder, StorageUri.parse((tmp_path / "to").as_uri()), last="config.json")
    assert not (tmp_path / "to/config.json").exists()


def test_a_file_replaces_the_one_that_is_there(folder: Path, tmp_path: Path) -> None:
    uri = StorageUri.parse((tmp_path / "to/file").as_uri())
    upload_file(folder / "a.bin", uri)
    upload_file(folder / "config.json", uri)
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["file"]
    assert (tmp_path / "to/file").read_text() == "config.json"


class Upload(io.BytesIO):
    """A stream that makes an object when it is closed, however little was written; where its store has `refuses`, it does neither."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        super().__init__()
        self._store, self._path = store, path

    def write(self, data: Buffer) -> int:
        self._store.answer()
        return super().write(data)

    def close(self) -> None:
        if not self.closed:
            self._store.answer()
            self._store.objects[self._path] = self.getvalue()
            super().close()


class ObjectStore:
    """Stands for the file system of an object store."""

    def __init__(self) -> None:
        self.objects, self.refuses = {"bucket/file": b"before"}, False

    def answer(self) -> None:
        if self.refuses:
            raise OSError("connection refused")

    def open_output_stream(self, path: str) -> Upload:
        self.answer()
        return Upload(self, path)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    store = ObjectStore()
    monkeypatch.setattr(objects, "file_system", lambda uri: store)
    return store


def test_what_is_there_stays_where_the_file_cannot_be_read_to_its_end(
    store: ObjectStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(source: IO[bytes], target: IO[bytes]) -> None:
        target.write(source.read(2))
        raise OSError("input/output error")

    monkeypatch.setattr(upload, "copy_stream", cut_off)
    with pytest.raises(StorageError, match="input/output error"):
        upload_file(folder / "a.bin", StorageUri.parse("s3://bucket/file"))
    gc.collect()
    assert store.objects == {"bucket/file": b"before"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, StorageError])
def test_what_is_there_stays_where_the_writer_is_interrupted(store: ObjectStore, error: type[BaseException]) -> None:
    with pytest.raises(error), objects.replacing_object(StorageUri.parse("s3://bucket/file")) as stream:
        stream.write(b"half")
        raise error("a second signal")
    # The stream is not closed by its own end either.
    del stream
    gc.collect()
    assert store.objects == {"bucket/file": b"before"}


def test_a_stream_whose_object_is_there_is_not_held_on_to(store: ObjectStore) -> None:
    with objects.replacing_object(StorageUri.parse("s3://bucket/file")) as stream:
        stream.write(b"whole")
        reference = weakref.ref(stream)
    del stream
    gc.collect()
    assert (store.objects, reference()) == ({"bucket/file": b"whole"}, None)


def test_what_is_there_stays_where_the_store_takes_no_other(store: ObjectStore, folder: Path) -> None:
    store.refuses = True
    with pytest.raises(UnavailableError, match="connection refused"):
        upload_file(folder / "a.bin", StorageUri.parse("s3://bucket/file"))
    assert store.objects == {"bucket/file": b"before"}


@pytest.mark.parametrize("at", ["a later part", "the end"])
def test_what_is_there_stays_where_the_store_is_lost_on_the_way(at: str, store: ObjectStore) -> None:
    with (
        pytest.raises(OSError, match="connection refused"),
        objects.replacing_object(StorageUri.parse("s3://bucket/file")) as stream,
    ):
        stream.write(b"half")
        store.refuses = True
        if at == "a later part":
            stream.write(b"more")
    store.refuses = False
    assert store.objects == {"bucket/file": b"before"}


def test_the_next_upload_deletes_what_a_killed_one_has_left_a_day_ago(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    long_ago = time.time() - 90_000
    for name in (".file.0a.partial", ".file.1b.partial", ".other.0a.partial", ".file.partial.txt"):
        (tmp_path / "to" / name).touch()
        if name != ".file.1b.partial":
            os.utime(tmp_path / "to" / name, (long_ago, long_ago))
    upload_file(folder / "a.bin", StorageUri.parse((tmp_path / "to/file").as_uri()))
    # Another process may be writing the younger one.
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        "file",
        ".file.1b.partial",
        ".other.0a.partial",
        ".file.partial.txt",
    }


def test_no_partial_file_is_left_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), objects.replacing_object(StorageUri.parse((tmp_path / "to/file").as_uri())) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert list((tmp_path / "to").iterdir()) == []
