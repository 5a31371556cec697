"""Images without labels: flat and nested folders, and Parquet without a column `label`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from autoslim.core.job import DatasetSpec
from autoslim.data import prepare_dataset, sample_source
from autoslim.data.sources import open_source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError


def open_at(path: Path):
    return open_source(str(path), seed=0, wanted=Wanted(labelled=False))


def names_of(table) -> list[str]:
    return [name for _, _, name in table.rows(np.arange(len(table.labels)))]


@pytest.fixture
def flat(tmp_path, picture) -> Path:
    root = tmp_path / "flat"
    root.mkdir()
    for number in range(20):
        (root / f"{number:02}.png").write_bytes(picture(number))
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def without_column(write_parquet):
    def write(name: str, count: int, first: int = 0) -> Path:
        path = write_parquet(name, [0] * count, first=first)
        pq.write_table(pq.read_table(path).drop_columns("label"), path)
        return path

    return write


def test_a_flat_folder_is_read(flat):
    source = open_at(flat)
    assert source.classes == ()
    assert not source.labelled
    assert names_of(source.train) == [f"{number:02}.png" for number in range(20)]


def test_a_nested_folder_is_read_at_any_depth_but_for_hidden_folders(write_images):
    root = write_images({"2024/may": 3, "2024/june/paris": 2, "other": 1, ".thumbnails": 4})
    assert names_of(open_at(root).train) == [
        "2024/june/paris/0.png",
        "2024/june/paris/1.png",
        "2024/may/0.png",
        "2024/may/1.png",
        "2024/may/2.png",
        "other/0.png",
    ]


def test_splits_of_a_folder_stay_apart(write_images):
    source = open_at(write_images({"train": 4, "val/deep": 2, "test": 3}))
    assert [names_of(table)[0] for table in source.tables()] == ["train/0.png", "val/deep/0.png", "test/0.png"]
    assert [len(table.labels) for table in source.tables()] == [4, 2, 3]


def test_parquet_without_labels_is_read(without_column):
    for split, count in (("train", 5), ("validation", 3), ("test", 2)):
        path = without_column(f"{split}.parquet", count)
    source = open_at(path.parent)
    assert [len(table.labels) for table in source.tables()] == [5, 3, 2]
    assert len(open_at(path.parent / "train.parquet").train.labels) == 5


@pytest.mark.parametrize("layout", ["parquet", "folder", "digits"])
def test_labels_that_there_are_do_not_count(write_parquet, write_images, layout):
    # One class, and one that is empty: neither matters to images alone.
    sources = {
        "parquet": lambda: str(write_parquet("one.parquet", [0, 0, 0], names=["cat", "dog"])),
        "folder": lambda: str(write_images({"cat": 3, "dog": 0})),
        "digits": lambda: "digits",
    }
    source = open_source(sources[layout](), seed=0, wanted=Wanted(labelled=False))
    assert source.classes == ()
    assert all(not table.labels.any() for table in source.tables())


@pytest.mark.parametrize("layout", ["flat", "parquet"])
def test_they_are_split_and_prepared(flat, without_column, tmp_path, layout):
    path = flat if layout == "flat" else without_column("one.parquet", 20)
    spec = DatasetSpec(source=str(path), labelled=False, train_limit=10)
    dataset = prepare_dataset(spec, tmp_path / "cache", seed=0)
    report = dataset.report
    assert dataset.classes == ()
    assert (report.train.images, report.validation.images, report.test.images) == (10, 2, 2)
    assert report.train.per_class == ()
    splits = dataset.splits((12, 12))
    pixels = [{image.tobytes() for image in split.images(np.arange(len(split)))} for split in (splits.train, splits.validation)]
    assert not pixels[0] & pixels[1]
    assert prepare_dataset(spec, tmp_path / "again", seed=0).digest == dataset.digest
    assert prepare_dataset(spec, tmp_path / "again", seed=1).digest != dataset.digest


def test_labelled_images_are_prepared_as_before(write_images, tmp_path):
    root = write_images({"cat": 10, "dog": 10})
    spec = DatasetSpec(source=str(root))
    assert "labelled" not in spec.to_dict()
    own, alone = (prepare_dataset(s, tmp_path / "cache", seed=0) for s in (spec, spec.replace(labelled=False)))
    assert own.path != alone.path
    assert own.classes == ("cat", "dog")


def test_a_few_of_them_are_shown(flat):
    sample = sample_source(DatasetSpec(source=str(flat), labelled=False), "train", (12, 12), 1.0, 3, seed=0)
    assert sample.pixels.shape == (3, 12, 12, 3)


def test_where_labels_are_needed_the_error_says_what_needs_none(flat, without_column):
    for path in (flat, without_column("one.parquet", 4)):
        with pytest.raises(DatasetError, match=r"images without labels are for `--objective features` alone"):
            open_source(str(path), seed=0)


def test_folders_and_files_without_images_are_refused(tmp_path, write_images, without_column):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty has no file ending in .*\.png, .*, at any depth"):
        open_at(tmp_path / "empty")
    with pytest.raises(DatasetError, match=r"test has no file ending in"):
        open_at(write_images({"train": 2, "test": 0}))
    with pytest.raises(DatasetError, match=r"one.parquet has no images"):
        open_at(without_column("one.parquet", 0))


def test_too_few_to_split_or_to_read_are_refused(tmp_path, picture):
    root = tmp_path / "few"
    root.mkdir()
    (root / "one.png").write_bytes(picture(1))
    with pytest.raises(DatasetError, match=r"the data set has 1 image left to take test from; needed: at least 2"):
        prepare_dataset(DatasetSpec(source=str(root), labelled=False), tmp_path / "cache", seed=0)
    for number in range(6):
        (root / f"{number}.png").write_bytes(b"damaged")
    spec = DatasetSpec(source=str(root), labelled=False, unreadable_share=1.0)
    with pytest.raises(DatasetError, match=r"few has no readable image in the (train|validation) split"):
        prepare_dataset(spec, tmp_path / "cache", seed=0)


@pytest.mark.parametrize("linked", ["link.png", "linked"])
def test_links_out_of_a_flat_folder_are_refused(flat, tmp_path, linked):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (flat / linked).symlink_to(outside / "secret.png" if linked.endswith("png") else outside)
    if linked == "linked":
        # A folder behind a link is not entered.
        assert len(open_at(flat).train.labels) == 20
        return
    with pytest.raises(DatasetError, match="leads out of"):
        open_at(flat)
