"""A preparation that was interrupted goes on: what it has written is not read from the source again, and the set is the same."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.kept_sets import forget_kept_sets

from autoslim.core.job import DatasetSpec
from autoslim.data import PreparedDataset, cache, prepare_dataset
from autoslim.data import prepare as module
from autoslim.data.cache import EncodedFile, write_encoded
from autoslim.data.rewritten_file import RewrittenFile
from autoslim.data.table import Indices, Row, Source, Table
from autoslim.errors import DatasetError

pytestmark = pytest.mark.usefixtures("home")

IMAGES = 60


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_BATCH_BYTES", 2_000)
    monkeypatch.setattr("autoslim.data.progress._WATCH_SECONDS", 0.0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are read from the source."""
    names: list[str] = []
    opened = module.open_source

    def counted(table: Table | None) -> Table | None:
        def rows(wanted: Indices) -> Iterator[Row]:
            assert table is not None
            for row in table.rows(wanted):
                names.append(row[2])
                yield row

        return None if table is None else dataclasses.replace(table, rows=rows)

    def open_source(*arguments: object, **settings: object) -> Source:
        source = opened(*arguments, **settings)  # type: ignore[arg-type]
        tables = {split: counted(getattr(source, split)) for split in ("train", "validation", "test")}
        return dataclasses.replace(source, **tables)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "open_source", open_source)
    return names


def prepared(source: Path, folder: Path, **settings: object) -> PreparedDataset:
    forget_kept_sets()
    return prepare_dataset(DatasetSpec(source=str(source), decoded_limit=0), folder, seed=0, **settings)  # type: ignore[arg-type]


def interrupt(source: Path, folder: Path, at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Ends a preparation in `folder` when it has come to so many images."""

    def end(done: int, total: int) -> None:
        if done == at:
            raise error

    with pytest.raises(error):
        prepared(source, folder, watch=end)


def files(dataset: PreparedDataset) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in dataset.path.iterdir()}


@pytest.fixture
def source(write_images: Callable[[dict[str, int]], Path]) -> Path:
    return write_images({"cat": IMAGES // 2, "dog": IMAGES // 2})


@pytest.mark.parametrize("at", [2, 31, 45, IMAGES])
def test_what_is_written_is_not_read_again_and_the_set_is_the_same(
    source: Path, tmp_path: Path, read: list[str], at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files(prepared(source, tmp_path / "whole"))
    interrupt(source, tmp_path / "cache", at)
    read.clear()
    found = prepared(source, tmp_path / "cache")
    assert files(found) == whole
    # Of a file that is cut off the last batch is missing, of some five images, and as many were ahead.
    assert IMAGES - at <= len(read) <= IMAGES - at + 12
    assert not list((tmp_path / "cache").glob("*.partial*"))


def test_one_that_is_interrupted_again_loses_nothing(source: Path, tmp_path: Path, read: list[str]) -> None:
    whole = files(prepared(source, tmp_path / "whole"))
    interrupt(source, tmp_path / "cache", 45)
    for at in (3, 20):
        interrupt(source, tmp_path / "cache", at)
    read.clear()
    assert files(prepared(source, tmp_path / "cache")) == whole
    assert len(read) <= IMAGES - 45 + 12


def test_a_process_that_is_killed_leaves_as_much(source: Path, tmp_path: Path, read: list[str]) -> None:
    def copy(done: int, total: int) -> None:
        if done == 40:
            shutil.copytree(tmp_path / "one", tmp_path / "two")

    whole = files(prepared(source, tmp_path / "one", watch=copy))
    read.clear()
    assert files(prepared(source, tmp_path / "two")) == whole
    assert len(read) <= IMAGES - 40 + 12


def test_images_that_were_unreadable_are_read_again(
    source: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "cat" / "7.png").write_bytes(b"no image")
    spec = DatasetSpec(source=str(source), decoded_limit=0, unreadable_images=1)

    def end(done: int, total: int) -> None:
        if done == IMAGES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(spec, tmp_path / "cache", seed=0, watch=end)
    read.clear()
    found = prepare_dataset(spec, tmp_path / "cache", seed=0)
    assert any(name.endswith("cat/7.png") for name in read)
    assert sum(getattr(found.report, split).unreadable for split in ("train", "validation", "test")) == 1


def test_a_source_that_has_changed_begins_anew(
    source: Path, tmp_path: Path, read: list[str], picture: Callable[[int], bytes]
) -> None:
    interrupt(source, tmp_path / "cache", 50)
    (source / "dog" / "3.png").write_bytes(picture(77))
    read.clear()
    prepared(source, tmp_path / "cache")
    assert len(read) == IMAGES


def test_images_that_a_power_failure_has_damaged_are_read_again(
    source: Path, tmp_path: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = files(prepared(source, tmp_path / "whole"))
    interrupt(source, tmp_path / "cache", 50)
    (left,) = (tmp_path / "cache").glob("*.partial/train.arrow")
    content = bytearray(left.read_bytes())
    at = content.index(b"\x89PNG", 3_000)
    content[at + 100 : at + 200] = bytes(100)
    left.write_bytes(content)
    assert files(prepared(source, tmp_path / "cache")) == whole
    assert "is damaged: it begins anew" in caplog.text


@pytest.mark.parametrize("cut", [0, 5, 500, -1])
def test_a_file_or_list_that_is_cut_off_anywhere_is_used_as_far_as_it_goes(source: Path, tmp_path: Path, cut: int) -> None:
    whole = files(prepared(source, tmp_path / "whole"))
    for suffix in (".arrow", ".left"):
        interrupt(source, tmp_path / suffix, 50)
        (left,) = (tmp_path / suffix).glob(f"*.partial/train{suffix}")
        left.write_bytes(left.read_bytes()[:cut])
        assert files(prepared(source, tmp_path / suffix)) == whole


def test_an_error_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (source / "cat" / "7.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="1 of"):
        prepared(source, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_what_is_there_is_not_written_again_and_what_follows_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, written = tmp_path / "file", list[bytes]()
    path.write_bytes(b"one two six and more")
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: written.append(bytes(data)) or write(file, data, at))
    file = RewrittenFile(path)
    for part in (b"one ", b"two ", b"three"):
        file.write(np.frombuffer(part, np.uint8))
    assert (file.tell(), written) == (13, [b"three"])
    file.close()
    file.close()
    assert path.read_bytes() == b"one two three"


def test_an_unfinished_file_has_its_whole_batches(tmp_path: Path) -> None:
    rows = [(os.urandom(700), number, f"image {number}") for number in range(20)]

    def interrupted() -> Iterator[tuple[bytes, int, str]]:
        yield from rows[:14]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_encoded(tmp_path / "train.arrow", interrupted())
    left = EncodedFile(tmp_path / "train.arrow", unfinished=True)
    assert list(left.images()) == [(data, name) for data, _, name in rows[:12]]
    assert left.labels.tolist() == list(range(12))
