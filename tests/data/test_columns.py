"""Parquet as people have it: columns of other names, texts as labels, images as bytes or as paths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoslim.core.job import DatasetSpec
from autoslim.data import prepare_dataset
from autoslim.data.sources import open_source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def open_at(path: Path, **wanted):
    return open_source(str(path), seed=0, wanted=Wanted(**wanted))


@pytest.fixture
def structs(picture):
    return lambda count: pa.array([{"bytes": picture(number), "path": None} for number in range(count)], STRUCT)


@pytest.fixture
def write(tmp_path):
    def to_file(file: str = "one.parquet", *, names: dict[str, list[str]] | None = None, **columns) -> Path:
        table = pa.table(columns)
        if names is not None:
            features = {name: {"names": texts, "_type": "ClassLabel"} for name, texts in names.items()}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path = tmp_path / "set" / file
        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(table, path)
        return path

    return to_file


@pytest.mark.parametrize("image", ["img", "Image", "picture", "anything"])
@pytest.mark.parametrize("label", ["labels", "fine_label", "class", "Target", "dx_category"])
def test_the_only_columns_that_may_be_meant_are_taken_and_said(write, structs, image, label):
    source = open_at(write(**{image: structs(4), "id": [1, 2, 3, 4], label: [0, 1, 0, 1]}))
    assert source.train.labels.tolist() == [0, 1, 0, 1]
    assert source.chosen == (f"the images of column {image}", f"the labels of column {label}")
    assert source.not_used == ("the columns id",)


def test_the_hubs_own_names_need_no_guess(write, structs):
    source = open_at(write(image=structs(4), thumb=structs(4), label=[0, 1, 0, 1], fine_label=[3, 2, 1, 0]))
    assert (source.chosen, source.not_used) == ((), ("the columns thumb, fine_label",))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ("img", "mask", "label"),
            r"has the columns img, mask, each of which may be the image; choose one with --image-column img",
        ),
        (("image", "fine_label", "coarse_label"), r"columns fine_label, coarse_label, .* --label-column fine_label"),
        (("image", "score"), r"no column 'label' but image, score; .*--label-column; images without labels"),
        (("title", "label"), r"no column 'image' but title, label; .*--image-column"),
    ],
)
def test_several_candidates_or_none_are_listed_with_the_flag(write, structs, columns, message):
    values = {name: structs(2) if name in ("image", "img", "mask") else [0, 1] for name in columns}
    with pytest.raises(DatasetError, match=message):
        open_at(write(**values))


def test_columns_that_are_asked_for_are_taken(write, structs):
    names = {"fine_label": ["ant", "bee"], "coarse_label": ["no", "yes"]}
    path = write(img=structs(2), mask=structs(2), fine_label=[0, 1], coarse_label=[1, 0], names=names)
    source = open_at(path, image_column="mask", label_column="coarse_label")
    assert (source.classes, source.train.labels.tolist()) == (("no", "yes"), [1, 0])
    assert source.chosen == ()
    assert open_at(path, image_column="img", label_column="fine_label").classes == ("ant", "bee")


@pytest.mark.parametrize(("field", "flag"), [("image_column", "--image-column"), ("label_column", "--label-column")])
def test_a_column_that_is_not_there_is_answered_by_those_that_are(write, structs, field, flag):
    with pytest.raises(DatasetError, match=rf"no column 'other' but image, label; {flag} names one of them"):
        open_at(write(image=structs(2), label=[0, 1]), **{field: "other"})


TEXTS = ["dog", "cat", "cat", "dog"]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(TEXTS),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([2, 0, 0, 2], pa.int8()), pa.array(["cat", "cow", "dog"])),
    ],
    ids=["texts", "large texts", "dictionary", "dictionary with an unused class"],
)
def test_texts_are_classes_in_the_order_of_their_names(write, structs, labels):
    source = open_at(write(image=structs(4), label=labels))
    assert (source.classes, source.train.labels.tolist()) == (("cat", "dog"), [1, 0, 0, 1])


def test_texts_that_are_numbers_stay_in_the_order_of_the_numbers(write, structs):
    source = open_at(write(image=structs(3), label=["10", "9", "102"]))
    assert (source.classes, source.train.labels.tolist()) == (("9", "10", "102"), [1, 0, 2])


def test_truth_values_and_numbers_in_a_dictionary_are_labels_too(write, structs):
    source = open_at(write(image=structs(3), label=[True, False, True]))
    assert (source.classes, source.train.labels.tolist()) == (("false", "true"), [1, 0, 1])
    numbers = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int8()), pa.array([0, 1], pa.int64()))
    assert open_at(write(image=structs(3), label=numbers)).train.labels.tolist() == [1, 0, 1]


def test_splits_share_the_classes_of_their_texts(write, structs):
    write("train.parquet", image=structs(3), label=["bee", "ant", "cow"])
    path = write("test.parquet", image=structs(2), label=["cow", "bee"])
    source = open_at(path.parent)
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([1, 0, 2], [2, 1])


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (["dog", "cow"], r"train\.parquet has no image of class 'cow'"),
        ([0, 1], r"numbers in one file and texts in another"),
    ],
)
def test_texts_of_splits_that_do_not_agree_are_refused(write, structs, test, message):
    write("train.parquet", image=structs(2), label=["dog", "cat"])
    path = write("test.parquet", image=structs(2), label=test)
    with pytest.raises(DatasetError, match=message):
        open_at(path.parent)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", None], "row 1: the label is null"),
        (["cat", " "], "a label is missing or empty"),
        (["cat", "a long caption " * 20], r"a label has 300 characters \('a long caption"),
        (pa.array([0, 2**64 - 1], pa.uint64()), "beyond 64 bits"),
    ],
)
def test_texts_that_cannot_be_class_names_are_refused(write, structs, labels, message):
    with pytest.raises(DatasetError, match=message):
        open_at(write(image=structs(2), label=labels))


def test_texts_that_are_no_texts_are_refused(write, structs, pictures):
    wrong = pa.array([b"\xff\xfe", b"ok"])
    text = pa.StringArray.from_buffers(2, wrong.buffers()[1], wrong.buffers()[2])
    with pytest.raises(DatasetError, match=r"column label is damaged .*; write the file again"):
        open_at(write(image=structs(2), label=text))
    with pytest.raises(DatasetError, match="cannot be read after row 0"):
        open_at(write(path=text, label=[0, 1]))


def test_a_column_of_captions_is_no_column_of_classes(write, structs, monkeypatch):
    monkeypatch.setattr("autoslim.data.labels.MAX_CLASSES", 3)
    with pytest.raises(DatasetError, match=r"has 4 different texts; allowed: at most 3 classes"):
        open_at(write(image=structs(4), label=["a", "b", "c", "d"]))


@pytest.mark.slow
def test_a_text_that_is_repeated_for_millions_of_rows_takes_no_memory(write):
    rows = 2_000_000
    labels = pa.DictionaryArray.from_arrays(pa.array(np.arange(rows) % 2, pa.int8()), pa.array(["a" * 250, "b" * 250]))
    path = write(image=pa.nulls(rows, STRUCT), label=labels.cast(pa.string()))
    before = pa.total_allocated_bytes()
    source = open_at(path)
    assert len(source.classes) == 2
    assert pa.total_allocated_bytes() - before < rows * 16


def test_images_are_bytes_of_a_column(write, picture):
    source = open_at(write(image=pa.array([picture(1), picture(2), None]), label=[0, 1, 1]))
    assert [data for _, data, _ in source.train.rows(np.arange(3))] == [picture(1), picture(2), b""]


@pytest.fixture
def pictures(tmp_path, picture):
    folder = tmp_path / "set" / "images"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number))
    return folder


PATHS = [f"images/{number}.png" for number in range(4)]


@pytest.mark.parametrize("name", ["file_name", "image", "path"])
def test_images_are_paths_of_a_column(write, pictures, picture, name):
    source = open_at(write(**{name: PATHS, "label": [0, 1, 0, 1]}))
    assert [data for _, data, _ in source.train.rows(np.array([1, 3]))] == [picture(1), picture(3)]
    assert [label for _, _, label in source.train.rows(np.array([1]))] == ["one.parquet:1 (images/1.png)"]


def test_paths_are_those_of_structs_without_bytes_too(write, pictures, picture):
    images = pa.array([{"bytes": None, "path": path} for path in PATHS], STRUCT)
    source = open_at(write(image=images, label=[0, 1, 0, 1]))
    assert [data for _, data, _ in source.train.rows(np.arange(4))] == [picture(number) for number in range(4)]


def test_paths_count_from_the_files_folder_or_the_whole_sets(write, pictures, picture):
    root = pictures.parent
    write("data/train.parquet", file_name=PATHS, label=[0, 1, 0, 1])
    (root / "data" / "near.png").write_bytes(picture(9))
    write("data/test.parquet", file_name=["near.png", "../images/0.png"], label=[0, 1])
    source = open_at(root)
    assert [data for _, data, _ in source.train.rows(np.array([2]))] == [picture(2)]
    assert [data for _, data, _ in source.test.rows(np.arange(2))] == [picture(9), picture(0)]


@pytest.mark.parametrize("path", ["../secret.png", "{outside}/secret.png", "linked.png", "images/../../secret.png", "a\0b"])
@pytest.mark.parametrize("as_struct", [False, True])
def test_paths_that_lead_out_of_the_folder_are_refused(write, pictures, tmp_path, path, as_struct):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (pictures.parent / "linked.png").symlink_to(tmp_path / "secret.png")
    path = path.format(outside=tmp_path)
    images = pa.array([{"bytes": None, "path": path}] * 2, STRUCT) if as_struct else [path] * 2
    file = write(image=images, label=[0, 1])
    with pytest.raises(DatasetError, match=r"one\.parquet.* names the image .* leads out of"):
        list(open_at(file).train.rows(np.arange(2)))
        prepare_dataset(DatasetSpec(source=str(file)), tmp_path / "cache", seed=0)


def test_a_path_of_something_else_than_a_file_is_a_missing_image(write, pictures):
    source = open_at(write(path=["images", "images/none.png"], label=[0, 1]))
    assert [data for _, data, _ in source.train.rows(np.arange(2))] == [b"", b""]


def test_a_changed_image_behind_a_path_is_prepared_again(write, pictures, picture, tmp_path):
    for number in range(4, 40):
        (pictures / f"{number}.png").write_bytes(picture(number))
    path = write(path=[f"images/{number}.png" for number in range(40)], label=[0, 1] * 20)
    first, again = (prepare_dataset(DatasetSpec(source=str(path)), tmp_path / "cache", seed=0) for _ in range(2))
    assert first.path == again.path
    (pictures / "7.png").write_bytes(picture(99))
    assert prepare_dataset(DatasetSpec(source=str(path)), tmp_path / "cache", seed=0).digest != first.digest


def test_what_was_taken_is_in_the_report_and_a_spec_without_choices_is_what_it_was(write, structs, tmp_path):
    path = write(img=structs(40), fine_label=["ant", "bee"] * 20)
    report = prepare_dataset(DatasetSpec(source=str(path)), tmp_path / "cache", seed=0).report
    assert report.chosen == ("the images of column img", "the labels of column fine_label")
    assert DatasetSpec(source="digits").to_dict().keys() == {
        "source",
        "validation_share",
        "unreadable_share",
        "decoded_limit",
        "train_limit",
    }


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_column", "img", r"--image-column is 'img', but .*images is read as: image folder, which has no columns; leave"),
        ("label_column", "x", r"--label-column is 'x', but .* no columns"),
        ("config", "large", r"--data-config is 'large', but .* no configurations"),
    ],
)
def test_a_choice_that_means_nothing_to_a_layout_is_refused(write_images, field, value, message):
    with pytest.raises(DatasetError, match=message):
        open_at(write_images({"ant": 1, "bee": 1}), **{field: value})
    with pytest.raises(DatasetError, match="digits is read as: built-in data set"):
        open_source("digits", seed=0, wanted=Wanted(**{field: value}))
