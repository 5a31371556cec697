"""Folders go to a store with the file that says they are whole behind all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoslim.errors import StorageError
from autoslim.storage import StorageUri, upload, upload_file, upload_folder


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
