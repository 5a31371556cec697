"""A large archive is several objects, of which a reader finds all or nothing; `test_conformance` has what every store does."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from autoslim.storage import StorageUri, archive, pieces, stat
from autoslim.storage.archive import pack_folder, unpack_folder
from autoslim.storage.mirror import Mirror
from autoslim.storage.objects import objects_below

CONTENT = bytes(range(256)) * 200


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 20_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train.arrow").write_bytes(CONTENT)
    return tmp_path / "images"


@pytest.fixture
def uri(tmp_path: Path) -> StorageUri:
    return StorageUri.parse((tmp_path / "store" / "images.tar").as_uri())


def versions(uri: StorageUri) -> set[str]:
    return {info.path.split("/")[-2] for info in objects_below(StorageUri.parse(f"{uri}.pieces"), recursive=True)}


def unpacked(uri: StorageUri, place: Path) -> bytes | None:
    return (place / "train.arrow").read_bytes() if unpack_folder(uri, place) else None


def test_a_small_folder_is_one_tar(uri: StorageUri, folder: Path, tmp_path: Path) -> None:
    (folder / "train.arrow").write_bytes(b"few")
    pack_folder(folder, uri)
    assert versions(uri) == set()
    assert Path(uri.path).read_bytes()[257:262] == b"ustar"
    assert unpacked(uri, tmp_path / "back") == b"few"


def test_no_object_is_larger_than_a_piece(uri: StorageUri, folder: Path, tmp_path: Path) -> None:
    pack_folder(folder, uri)
    sizes = [info.size for info in objects_below(StorageUri.parse(Path(uri.path).parent.as_uri()), recursive=True)]
    assert (len(sizes), max(sizes)) == (5, 20_000)
    assert unpacked(uri, tmp_path / "back") == CONTENT


@pytest.mark.parametrize("at", [1, 3])
def test_the_earlier_folder_stays_where_its_successor_is_interrupted(
    uri: StorageUri, folder: Path, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_folder(folder, uri)
    (folder / "train.arrow").write_bytes(CONTENT[::-1])
    begun: list[StorageUri] = []
    replacing = pieces.replacing_object

    def interrupted(place: StorageUri):  # type: ignore[no-untyped-def]
        begun.append(place)
        if len(begun) > at:
            raise KeyboardInterrupt
        return replacing(place)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pieces, "replacing_object", interrupted)
        pack_folder(folder, uri)
    assert unpacked(uri, tmp_path / "back") == CONTENT
    # The same content once more goes to the same pieces, and nothing of either is left.
    pack_folder(folder, uri)
    assert unpacked(uri, tmp_path / "back") == CONTENT[::-1]
    assert len(versions(uri)) == 1


@pytest.mark.parametrize(("days", "left"), [(0.5, 2), (1.1, 1)])
def test_the_next_upload_deletes_pieces_that_a_killed_one_has_left_a_day_ago(
    uri: StorageUri, folder: Path, days: float, left: int
) -> None:
    abandoned = Path(f"{uri.path}.pieces/0123456789abcdef/000000")
    abandoned.parent.mkdir(parents=True)
    abandoned.touch()
    then = time.time() - days * 86_400
    os.utime(abandoned, (then, then))
    pack_folder(folder, uri)
    # Another process may be writing the younger ones.
    assert len(versions(uri)) == left


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_folder_without_one_of_its_pieces_counts_as_missing(
    uri: StorageUri, folder: Path, tmp_path: Path, missing: int, caplog: pytest.LogCaptureFixture
) -> None:
    pack_folder(folder, uri)
    (version,) = versions(uri)
    Path(f"{uri.path}.pieces/{version}/{missing:06}").unlink()
    assert unpacked(uri, tmp_path / "back") is None
    assert not (tmp_path / "back").exists()
    assert "is cut off" in caplog.text


def test_who_reads_while_it_is_replaced_gets_the_successor(
    uri: StorageUri, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_folder(folder, uri)
    opened, replaced = archive.open_pieces, list[StorageUri]()

    @contextlib.contextmanager
    def replaced_meanwhile(place: StorageUri, *, size: int, buffer_size: int) -> Iterator[IO[bytes]]:
        with opened(place, size=size, buffer_size=buffer_size) as stream:
            if not replaced:
                replaced.append(place)
                (folder / "train.arrow").write_bytes(CONTENT[::-1])
                pack_folder(folder, uri)
            yield stream

    monkeypatch.setattr(archive, "open_pieces", replaced_meanwhile)
    assert unpacked(uri, tmp_path / "back") == CONTENT[::-1]


def test_who_reads_a_piece_that_is_gone_by_then_gets_the_successor(
    uri: StorageUri, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store reads by ranges: what is open is no longer there once it is deleted."""
    pack_folder(folder, uri)
    opened, replaced = archive.open_pieces, list[StorageUri]()

    class Gone(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise FileNotFoundError(404, "no such key")

    @contextlib.contextmanager
    def gone_meanwhile(place: StorageUri, *, size: int, buffer_size: int) -> Iterator[IO[bytes]]:
        with opened(place, size=size, buffer_size=buffer_size) as stream:
            if replaced:
                yield stream
                return
        replaced.append(place)
        (folder / "train.arrow").write_bytes(CONTENT[::-1])
        pack_folder(folder, uri)
        yield Gone()

    monkeypatch.setattr(archive, "open_pieces", gone_meanwhile)
    assert unpacked(uri, tmp_path / "back") == CONTENT[::-1]


def test_a_deleted_folder_leaves_no_pieces(uri: StorageUri, tmp_path: Path, folder: Path) -> None:
    mirror = Mirror(tmp_path, StorageUri.parse(Path(uri.path).parent.as_uri()))
    mirror.keep(folder)
    assert stat(uri) is not None
    mirror.delete(folder)
    assert mirror.size() == 0
