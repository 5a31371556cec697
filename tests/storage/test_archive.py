"""A folder as one object: whole or not there."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest
from helpers.signs_of_life import counted_marks

from autoslim.errors import StorageError
from autoslim.storage.archive import pack_folder, unpack_folder
from autoslim.storage.objects import objects_below, read_object, replacing_object, write_object
from autoslim.storage.uri import StorageUri


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint" / "deep").mkdir(parents=True)
    (tmp_path / "checkpoint" / "state.safetensors").write_bytes(bytes(range(256)) * 4000)
    (tmp_path / "checkpoint" / "deep" / "facts.json").write_text("{}")
    return tmp_path / "checkpoint"


@pytest.fixture
def uri(tmp_path: Path) -> StorageUri:
    return StorageUri.parse((tmp_path / "store" / "checkpoint.tar").as_uri())


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_as_it_was_in_the_place_of_what_was_there(folder: Path, uri: StorageUri, tmp_path: Path) -> None:
    pack_folder(folder, uri)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "of an earlier one").touch()
    assert unpack_folder(uri, tmp_path / "there")
    assert content(tmp_path / "there") == content(folder)


def test_each_file_is_a_sign_of_life(folder: Path, uri: StorageUri, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = counted_marks(monkeypatch)
    pack_folder(folder, uri)
    assert len(marks) == 2


def test_each_part_of_a_large_file_is_a_sign_of_life(tmp_path: Path, uri: StorageUri, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train.arrow").write_bytes(bytes(40 * 2**20))
    marks = counted_marks(monkeypatch)
    pack_folder(tmp_path / "images", uri)
    assert len(marks) >= 5
    marks.clear()
    unpack_folder(uri, tmp_path / "there")
    assert len(marks) >= 5


def test_there_is_none(uri: StorageUri, tmp_path: Path) -> None:
    assert not unpack_folder(uri, tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99], ids=["empty", "half", "between two files"])
def test_an_archive_that_is_cut_off_counts_as_missing_and_replaces_nothing(
    folder: Path, uri: StorageUri, tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    pack_folder(folder, uri)
    whole = Path(uri.path).read_bytes()
    # Behind the second file, before the last member.
    end = whole.index(b".end") if share == 0.99 else int(share * len(whole))
    Path(uri.path).write_bytes(whole[:end])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "of an earlier one").touch()
    assert not unpack_folder(uri, tmp_path / "there")
    assert set(content(tmp_path / "there")) == {"of an earlier one"}
    assert "is cut off" in caplog.text


def test_what_fails_half_way_is_not_there(uri: StorageUri) -> None:
    with pytest.raises(RuntimeError), replacing_object(uri) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert read_object(uri) is None
    assert objects_below(StorageUri.parse(Path(uri.path).parent.as_uri())) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside", tarfile.REGTYPE),
        ("a/../../outside", tarfile.REGTYPE),
        ("inside", tarfile.SYMTYPE),
        ("inside", tarfile.LNKTYPE),
    ],
)
def test_a_member_that_leads_out_is_refused(uri: StorageUri, tmp_path: Path, name: str, kind: bytes) -> None:
    _refused(uri, tmp_path, name, kind)


def test_a_member_with_an_absolute_name_is_refused(uri: StorageUri, tmp_path: Path) -> None:
    _refused(uri, tmp_path, str(tmp_path / "outside"), tarfile.REGTYPE)


def _refused(uri: StorageUri, tmp_path: Path, name: str, kind: bytes) -> None:
    written, member = io.BytesIO(), tarfile.TarInfo(name)
    member.type, member.linkname = kind, "../outside"
    with tarfile.open(fileobj=written, mode="w") as archive:
        archive.addfile(member, io.BytesIO())
    write_object(uri, written.getvalue())
    with pytest.raises(StorageError, match=f"its member '{re.escape(name)}' is no file in the folder"):
        unpack_folder(uri, tmp_path / "there")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "there").exists()
