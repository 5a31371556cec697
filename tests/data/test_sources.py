from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoslim.data import decode
from autoslim.data.sources import open_source
from autoslim.errors import DatasetError


def open_at(path: Path):
    return open_source(str(path), seed=0)


def test_parquet_folder_brings_its_splits_and_class_names(write_parquet):
    for name, first in (("train.parquet", 0), ("validation.parquet", 100), ("test.parquet", 200)):
        path = write_parquet(name, [0, 1] * 5, names=["cat", "dog"], first=first)
    source = open_at(path.parent)
    assert source.classes == ("cat", "dog")
    assert [len(table.labels) for table in source.tables()] == [10, 10, 10]


def test_rows_are_streamed_only_where_wanted(write_parquet):
    source = open_at(write_parquet("one.parquet", [0, 1] * 20))
    rows = list(source.train.rows(np.array([3, 17, 39])))
    assert [row for row, _, _ in rows] == [3, 17, 39]
    assert [name for _, _, name in rows] == ["one.parquet:3 (3.png)", "one.parquet:17 (17.png)", "one.parquet:39 (39.png)"]


def test_without_metadata_classes_are_the_label_numbers(write_parquet):
    assert open_at(write_parquet("one.parquet", [0, 1, 2] * 3)).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 5], ["a", "b"], "row 2: label 5 .* 0 to 1"),
        ([0, -1, 1], ["a", "b"], "row 1: label -1"),
        ([0, 1, 0], ["a", "b", "rare"], "no image of class 'rare'"),
        ([0, 2, 0], None, "no image of class '1'"),
        ([0, 1, 10**12], None, "labels up to 1000000000000"),
        ([0, None, 1], ["a", "b"], "row 1: the label is null"),
        ([0, 0, 0], ["a"], "at least two"),
        ([0, 1, 1], ["a", "a"], "all different"),
        ([], None, "at least two"),
    ],
)
def test_labels_that_do_not_fit_the_classes_are_named(write_parquet, labels, names, message):
    with pytest.raises(DatasetError, match=message):
        open_at(write_parquet("one.parquet", labels, names=names))


def test_splits_with_different_classes_are_refused(write_parquet):
    write_parquet("train.parquet", [0, 1], names=["cat", "dog"])
    path = write_parquet("test.parquet", [0, 1], names=["cat", "cow"])
    with pytest.raises(DatasetError, match=r"test.parquet and train.parquet .* cow, dog"):
        open_at(path.parent)


def test_missing_path_says_what_is_allowed(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere.* does not exist; allowed: .*digits"):
        open_at(tmp_path / "nowhere")


def test_file_that_is_not_parquet_is_named(tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(b"certainly not a Parquet file")
    with pytest.raises(DatasetError, match=r"train.parquet is not a readable Parquet file"):
        open_at(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"label": [0, 1]}), "no column 'image' but label; expected"),
        (pa.table({"image": [[1], [2]], "label": [0, 1]}), "column image is list<.*>; expected"),
        (pa.table({"image": [{"bytes": b"x"}], "label": [0.5]}), "column label is double; expected"),
        (pa.table({"image": [{"bytes": b"x"}], "label": [[0, 1]]}), "column label is list<.*>; expected"),
        (pa.table({"image": [{"bytes": b"x"}]}), "no column 'label'"),
    ],
)
def test_wrong_columns_say_what_was_expected(tmp_path, table, message):
    pq.write_table(table, tmp_path / "one.parquet")
    with pytest.raises(DatasetError, match=message):
        open_at(tmp_path / "one.parquet")


@pytest.mark.parametrize("text", ["{", json.dumps([1]), json.dumps({"info": {"features": {"label": {"names": [1, 2]}}}})])
def test_broken_metadata_is_refused(write_parquet, text):
    path = write_parquet("one.parquet", [0, 1])
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": text}), path)
    with pytest.raises(DatasetError, match="metadata `huggingface`"):
        open_at(path)


def test_parquet_damaged_in_the_middle_is_named(write_parquet):
    path = write_parquet("one.parquet", [0, 1] * 50)
    source = open_at(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"one.parquet cannot be read after row"):
        list(source.train.rows(np.arange(100)))


@pytest.mark.parametrize("validation", ["val", "validation", "valid", "dev", "eval", "Val", "VALID"])
def test_image_folder_with_splits(write_images, validation):
    root = write_images({f"{split}/{name}": 3 for split in ("train", validation, "test") for name in ("cat", "dog")})
    source = open_at(root)
    assert source.classes == ("cat", "dog")
    assert [table.labels.tolist() for table in source.tables()] == [[0, 0, 0, 1, 1, 1]] * 3
    assert [name for _, _, name in source.train.rows(np.array([4]))] == ["train/dog/1.png"]


@pytest.mark.parametrize("pair", ["Train/Test", "training/testing", "TRAIN/test"])
def test_splits_have_the_names_that_people_give_them(write_images, pair):
    train, test = pair.split("/")
    source = open_at(write_images({f"{split}/{name}": 2 for split in (train, test) for name in ("ant", "bee")}))
    assert source.classes == ("ant", "bee")
    assert source.test is not None
    assert source.not_used == ()


@pytest.mark.parametrize("folders", ["Test/Val", "dev/test", "valid"])
def test_folders_named_like_splits_are_no_classes(write_images, folders):
    with pytest.raises(DatasetError, match=r"but no train; a folder of that name is taken as a split"):
        open_at(write_images({f"{split}/{name}": 2 for split in folders.split("/") for name in ("ant", "bee")}))


def test_what_is_not_used_is_said(write_images, picture):
    root = write_images({f"{split}/{name}": 2 for split in ("train", "test", "extra") for name in ("ant", "bee")})
    for name in ("a.psd", "b.PSD", "c", "notes.txt", ".hidden", "d.heic.bak"):
        (root / "train" / "bee" / name).write_bytes(picture(1))
    for name in ("d.jfif", "e.TIFF", "f.jpe", "g.avif"):
        (root / "train" / "bee" / name).write_bytes(picture(2))
    (root / "test" / "stray.png").write_bytes(picture(3))
    (root / "labels.csv").touch()
    (root / "train" / "bee" / "more").symlink_to(root / "extra" / "bee")
    source = open_at(root)
    assert source.not_used == (
        "the folder extra, which is no split",
        "1 files beside the splits",
        "1 files ending in .bak",
        "2 files ending in .psd",
        "1 files ending in .txt",
        "1 files without a suffix",
        "1 images outside of the class folders",
        "1 links to folders, which are not followed",
    )
    assert len(source.train.labels) == 8


@pytest.mark.skipif("HEIF" in decode.FORMATS, reason="pillow-heif is installed")
def test_photographs_of_phones_are_counted_with_what_reads_them(write_images):
    root = write_images({"ant": 2, "bee": 2})
    (root / "bee" / "IMG_1.HEIC").touch()
    assert open_at(root).not_used == ("1 files ending in .heic (read where the package pillow-heif is installed)",)


def test_hidden_folders_are_no_data(write_images, picture):
    root = write_images({"ant": 2, "bee": 2})
    for hidden in (root / ".cache", root / "bee" / ".ipynb_checkpoints"):
        hidden.mkdir()
        (hidden / "copy.png").write_bytes(picture(1))
    source = open_at(root)
    assert (source.classes, len(source.train.labels), source.not_used) == (("ant", "bee"), 4, ())


SHARDS = ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")


@pytest.mark.parametrize("below", ["", "data"])
def test_shards_are_read_as_one_split_each(write_parquet, picture, tmp_path, below):
    root = tmp_path / "set" / below
    root.mkdir(parents=True)
    for number, name in enumerate(SHARDS):
        write_parquet(name, [0, 1, 1], names=["ant", "bee"], first=10 * number).rename(root / f"{name}.parquet")
    source = open_at(tmp_path / "set")
    assert source.train.labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert source.test is not None
    assert source.test.labels.tolist() == [0, 1, 1]
    rows = list(source.train.rows(np.array([1, 3, 5])))
    assert [row for row, _, _ in rows] == [1, 3, 5]
    assert [name.split(":")[0] for _, _, name in rows] == [f"{SHARDS[0]}.parquet", *[f"{SHARDS[1]}.parquet"] * 2]
    assert [data for _, data, _ in rows] == [picture(1), picture(10), picture(12)]


@pytest.mark.parametrize("name", ["val", "valid", "dev", "validation-00000-of-00001"])
def test_files_of_the_validation_split_have_any_of_its_names(write_parquet, name):
    for split in ("train", name, "other"):
        path = write_parquet(split, [0, 1])
        path.rename(path.with_suffix(".parquet"))
    source = open_at(path.parent)
    assert source.validation is not None
    assert source.not_used == ("the file other.parquet, which is no split",)


def test_a_folder_of_other_files_names_them(write_parquet):
    path = write_parquet("part-0", [0, 1])
    path.rename(path.with_suffix(".parquet"))
    with pytest.raises(DatasetError, match=r"has part-0.parquet but no train.parquet, nor shards"):
        open_at(path.parent)


def test_image_folder_without_splits(write_images):
    source = open_at(write_images({"cat": 4, "dog": 4}))
    assert len(source.train.labels) == 8
    assert (source.validation, source.test) == (None, None)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train/cat": 2, "train/dog": 0}, "class 'dog' is empty"),
        ({"train/cat": 2, "train/dog": 2, "test/cat": 2, "test/cow": 1}, "different classes: cow, dog"),
        ({"train": 0}, "no class folders"),
        ({"test/cat": 1, "test/dog": 1}, "but no train"),
        ({f"{split}/{name}": 1 for split in ("train", "val", "validation") for name in "ab"}, "both validation and val"),
    ],
)
def test_image_folder_whose_classes_do_not_agree_is_refused(write_images, counts, message):
    with pytest.raises(DatasetError, match=message):
        open_at(write_images(counts))


@pytest.mark.parametrize("linked", ["cat/link.png", "linked"])
def test_links_out_of_an_image_folder_are_refused(write_images, tmp_path, linked):
    root = write_images({"cat": 2, "dog": 2})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (root / linked).symlink_to(outside / "secret.png" if linked.endswith("png") else outside)
    with pytest.raises(DatasetError, match="leads out of"):
        open_at(root)


@pytest.mark.parametrize("split", ["train", "test", "validation"])
def test_links_out_of_a_folder_of_parquet_files_are_refused(write_parquet, tmp_path, split):
    root = tmp_path / "set"
    root.mkdir()
    file = write_parquet("outside", [0, 1, 0, 1])
    for name in {"train", split}:
        (root / f"{name}.parquet").symlink_to(file) if name == split else shutil.copy(file, root / f"{name}.parquet")
    with pytest.raises(DatasetError, match=f"{split}.parquet is a link that leads out of"):
        open_at(root)


def test_links_within_a_folder_of_parquet_files_are_followed(write_parquet, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    write_parquet("outside", [0, 1, 0, 1]).rename(root / "all.bin")
    (root / "train.parquet").symlink_to("all.bin")
    assert len(open_at(root).train.labels) == 4


def test_digits_are_the_same_for_the_same_seed_and_split_evenly():
    source, again, other = (open_source("digits", seed=seed) for seed in (0, 0, 1))
    assert len(source.train.labels) == 1437
    assert np.bincount(source.test.labels).min() >= 34
    assert np.array_equal(source.test.labels, again.test.labels)
    names = [[name for _, _, name in digits.test.rows(np.arange(360))] for digits in (source, other)]
    assert len(set(names[0])) == 360
    assert names[0] != names[1]
