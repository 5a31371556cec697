"""Images that were readable once are not decoded again only to see that; what is new is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.kept_sets import forget_kept_sets

from autoslim.core.job import DatasetSpec
from autoslim.data import examined, prepare_dataset, split_writer
from autoslim.data.copies import HASH_BYTES
from autoslim.errors import DatasetError


@pytest.fixture(autouse=True)
def _own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "home-cache"))


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """The images that are decoded while data sets are prepared."""
    seen: list[bytes] = []
    real = split_writer.decode_rgb

    def decode(data: bytes):
        seen.append(data)
        return real(data)

    monkeypatch.setattr(split_writer, "decode_rgb", decode)
    return seen


def _shards(write_parquet) -> Path:
    for number in range(3):
        write_parquet(f"train-{number:05}-of-00003.parquet", [0, 1] * 10, first=100 * number)
    return write_parquet("test.parquet", [0, 1] * 4, first=900).parent


def _prepare(root: Path, cache: Path, **changes):
    forget_kept_sets()
    return prepare_dataset(DatasetSpec(source=str(root), **changes), cache, seed=0)


def test_a_second_output_folder_decodes_nothing_for_the_check(write_parquet, decoded, tmp_path):
    root = _shards(write_parquet)
    first = _prepare(root, tmp_path / "one")
    assert len(decoded) == 68
    decoded.clear()
    second = _prepare(root, tmp_path / "two")
    assert decoded == []
    assert second.digest == first.digest


def test_after_one_shard_is_exchanged_only_its_images_are_decoded(write_parquet, decoded, picture, tmp_path):
    root = _shards(write_parquet)
    _prepare(root, tmp_path / "one")
    decoded.clear()
    write_parquet("train-00001-of-00003.parquet", [0, 1] * 10, first=500)
    dataset = _prepare(root, tmp_path / "one")
    assert sorted(decoded) == sorted(picture(500 + number) for number in range(20))
    assert dataset.report.train.images + dataset.report.validation.images == 60


def test_a_preparation_that_failed_is_not_for_nothing(write_parquet, decoded, picture, tmp_path):
    root = _shards(write_parquet)
    spoilt = [picture(900 + number) for number in range(7)] + [b"no image"]
    write_parquet("test.parquet", [0, 1] * 4, images=spoilt)
    # Train is prepared before the test split, whose image ends it.
    with pytest.raises(DatasetError, match="1 of 8 images of the test split"):
        _prepare(root, tmp_path / "one")
    decoded.clear()
    write_parquet("test.parquet", [0, 1] * 4, first=900)
    _prepare(root, tmp_path / "one")
    assert decoded == [picture(907)]


def test_a_killed_preparation_examines_only_the_rest(write_parquet, decoded, tmp_path, monkeypatch):
    monkeypatch.setattr(examined, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr("autoslim.data.progress._WATCH_SECONDS", 0.0)
    root, at_the_kill = _shards(write_parquet), tmp_path / "at-the-kill"

    def watch(done: int, total: int) -> None:
        if done == 41:
            shutil.copytree(tmp_path / "home-cache", at_the_kill)

    prepare_dataset(DatasetSpec(source=str(root)), tmp_path / "one", seed=0, watch=watch)
    monkeypatch.setenv("AUTOSLIM_CACHE", str(at_the_kill))
    decoded.clear()
    _prepare(root, tmp_path / "two")
    assert len(decoded) == 68 - 40


@pytest.mark.parametrize("killed", ["by an error", "at once"])
def test_a_preparation_of_folders_goes_on_after_half_of_them_with_its_progress(
    write_images, decoded, tmp_path, monkeypatch, killed
):
    monkeypatch.setattr("autoslim.data.progress._WATCH_SECONDS", 0.0)
    root, home, at_the_kill = write_images({"cat": 30, "dog": 30}), tmp_path / "home-cache", tmp_path / "at-the-kill"
    if killed == "at once":
        # What is written by then is all that is left.
        monkeypatch.setattr(examined, "SAVE_SECONDS", 0.0)

    def end(done: int, total: int) -> None:
        if done == 31:
            if killed == "at once":
                shutil.copytree(home, at_the_kill)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(DatasetSpec(source=str(root)), tmp_path / "one", seed=0, watch=end)
    assert {path.suffix for path in (tmp_path / "one").glob("*/")} <= {".partial"}, "nothing is published"
    monkeypatch.setenv("AUTOSLIM_CACHE", str(at_the_kill if killed == "at once" else home))
    decoded.clear()
    seen: list[tuple[int, int]] = []
    prepared = prepare_dataset(DatasetSpec(source=str(root)), tmp_path / "one", seed=0, watch=lambda *counts: seen.append(counts))
    assert len(decoded) == 60 - 30
    assert seen[-1] == (60, 60)
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "empty"))
    assert prepared.digest == _prepare(root, tmp_path / "two").digest


def test_an_unreadable_image_stays_unreadable(write_parquet, decoded, picture, tmp_path):
    root = _shards(write_parquet)
    write_parquet("test.parquet", [0, 1] * 4, images=[picture(900 + number) for number in range(7)] + [b"no image"])
    reports = [_prepare(root, tmp_path / name, unreadable_share=0.2).report.test for name in ("one", "two")]
    assert [report.unreadable for report in reports] == [1, 1]
    assert reports[0].named == reports[1].named
    assert decoded.count(b"no image") == 2


def test_images_that_are_gone_are_forgotten_and_old_records_deleted(write_parquet, decoded, tmp_path):
    root = _shards(write_parquet)
    _prepare(root, tmp_path / "one")
    folder = tmp_path / "home-cache" / "examined"
    (record,) = folder.iterdir()
    assert record.stat().st_size == 68 * HASH_BYTES
    old = folder / "of-a-deleted-folder"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    (root / "train-00002-of-00003.parquet").unlink()
    _prepare(root, tmp_path / "one")
    assert list(folder.iterdir()) == [record]
    assert record.stat().st_size == 48 * HASH_BYTES


def test_a_cache_folder_that_cannot_be_written_is_said(write_parquet, tmp_path, monkeypatch, caplog):
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "a-file"))
    dataset = _prepare(_shards(write_parquet), tmp_path / "one")
    assert dataset.report.test.images == 8
    assert "all images are decoded again next time" in caplog.text


def test_images_that_structs_name_by_paths_are_part_of_the_key(write_images, picture, tmp_path):
    """The hub's images may be paths alone: another image under the same path is another data set."""
    root = write_images({"cat": 10, "dog": 10})
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    pq.write_table(
        pa.table({"image": image, "label": pa.array([int(path.startswith("dog")) for path in paths])}), root / "train.parquet"
    )
    before = _prepare(root / "train.parquet", tmp_path / "cache")
    (root / paths[3]).write_bytes(picture(77))
    after = _prepare(root / "train.parquet", tmp_path / "cache")
    assert before.path != after.path
    assert before.digest != after.digest
