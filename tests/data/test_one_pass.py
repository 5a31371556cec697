"""Images are decoded once: what examines them brings them to the model's size, too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.decoded_pixels import are_right
from helpers.kept_sets import forget_kept_sets

from autoslim.core.job import DatasetSpec
from autoslim.data import PreparedDataset, dataset, pixel_collector, prepare_dataset, split_writer
from autoslim.data.decode import decode_rgb
from autoslim.data.pixel_file import PixelWriter, bytes_in_file

pytestmark = pytest.mark.usefixtures("home")

SIZE = (12, 12)
INPUTS = ((SIZE, 1.0),)


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """The images that are decoded, by whichever pass."""
    seen: list[bytes] = []

    def decode(data: bytes):
        seen.append(data)
        return decode_rgb(data)

    for module in (dataset, split_writer):
        monkeypatch.setattr(module, "decode_rgb", decode)
    return seen


@pytest.fixture
def root(write_parquet) -> Path:
    for number in range(2):
        write_parquet(f"train-{number:05}-of-00002.parquet", [0, 1] * 10, first=100 * number)
    return write_parquet("test.parquet", [0, 1] * 4, first=900).parent


def _prepare(root: Path, output: Path, *, inputs=INPUTS, **settings) -> PreparedDataset:
    forget_kept_sets()
    return prepare_dataset(DatasetSpec(source=str(root), **settings), output, seed=0, inputs=inputs)


def test_the_first_search_decodes_each_image_once_and_says_that_none_was_decoded_before(root, decoded, tmp_path):
    prepared = _prepare(root, tmp_path / "one")
    assert len(decoded) == len(set(decoded)) == 48
    assert prepared.kept(SIZE) == 0
    assert are_right(prepared, SIZE)
    assert len(decoded) == 48
    second = _prepare(root, tmp_path / "two")
    assert second.kept(SIZE) == 48
    assert are_right(second, SIZE)
    assert len(decoded) == 48


def test_after_one_shard_is_exchanged_its_images_are_decoded_once(root, decoded, write_parquet, picture, tmp_path):
    _prepare(root, tmp_path / "one")
    decoded.clear()
    write_parquet("train-00001-of-00002.parquet", [0, 1] * 10, first=500)
    assert are_right(_prepare(root, tmp_path / "two"), SIZE)
    assert sorted(decoded) == sorted(picture(500 + number) for number in range(20))


def test_every_size_that_is_asked_for_is_made_in_the_same_pass(root, decoded, tmp_path):
    prepared = _prepare(root, tmp_path / "one", inputs=[(SIZE, 1.0), ((9, 9), 0.9)])
    assert are_right(prepared, SIZE)
    assert are_right(prepared, (10, 10))
    assert len(decoded) == 48


def test_images_that_are_known_to_be_readable_are_decoded_for_a_new_size_while_progress_is_told(root, decoded, tmp_path):
    _prepare(root, tmp_path / "one")
    decoded.clear()
    seen: list[tuple[int, int]] = []
    spec = DatasetSpec(source=str(root))
    prepared = prepare_dataset(
        spec, tmp_path / "two", seed=0, inputs=[((8, 8), 1.0)], watch=lambda done, total: seen.append((done, total))
    )
    assert len(decoded) == 48
    assert seen[0] == (1, 48)
    assert are_right(prepared, (8, 8))
    assert len(decoded) == 48


def test_a_set_that_is_decoded_while_it_is_read_is_not_collected(root, home, tmp_path):
    prepared = _prepare(root, tmp_path / "one", decoded_limit=1000)
    assert not prepared.splits(SIZE).decoded
    assert not home.exists()


def test_an_unreadable_image_is_left_out_and_the_others_are_kept(root, decoded, write_parquet, picture, tmp_path):
    images = [picture(900 + number) if number != 3 else b"no image" for number in range(8)]
    write_parquet("test.parquet", [0, 1] * 4, images=images)
    prepared = _prepare(root, tmp_path / "one", unreadable_share=0.5)
    assert prepared.report.test.unreadable == 1
    assert are_right(prepared, SIZE)
    assert len(decoded) == 48


def test_a_killed_preparation_goes_on_behind_the_last_finished_file(root, decoded, home, tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_collector, "FILE_BYTES", 10 * bytes_in_file(SIZE))
    monkeypatch.setenv("AUTOSLIM_CACHE_LIMIT", str(64 * bytes_in_file(SIZE)))
    monkeypatch.setattr("autoslim.data.progress._WATCH_SECONDS", 0.0)
    at_the_kill = tmp_path / "at-the-kill"

    def watch(done: int, total: int) -> None:
        if done == 35:
            shutil.copytree(home.parent, at_the_kill)

    prepare_dataset(DatasetSpec(source=str(root)), tmp_path / "one", seed=0, inputs=INPUTS, watch=watch)
    monkeypatch.setenv("AUTOSLIM_CACHE", str(at_the_kill))
    assert not (at_the_kill / "examined").exists()
    first = set(decoded)
    decoded.clear()
    prepared = _prepare(root, tmp_path / "two")
    assert len(decoded) == 18
    assert set(decoded) < first
    assert prepared.kept(SIZE) == 30
    assert are_right(prepared, SIZE)
    assert len(decoded) == 18


@pytest.mark.parametrize("limit", ["0", str(10 * bytes_in_file(SIZE))])
def test_what_is_not_kept_is_decoded_a_second_time(root, decoded, home, tmp_path, monkeypatch, limit):
    monkeypatch.setenv("AUTOSLIM_CACHE_LIMIT", limit)
    prepared = _prepare(root, tmp_path / "one")
    assert [path for path in home.glob("*/*") if not path.name.endswith(".pixels")] == []
    assert are_right(prepared, SIZE)
    assert len(decoded) == 96


def test_a_full_disk_costs_a_second_decoding_and_is_said(root, decoded, home, tmp_path, monkeypatch, caplog):
    def fail(self, *_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PixelWriter, "add", fail)
        prepared = _prepare(root, tmp_path / "one")
    assert "No space left on device" in caplog.text
    assert list(home.glob("*/*")) == []
    assert are_right(prepared, SIZE)
    assert len(decoded) == 96
