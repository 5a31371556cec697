"""Manifests: CSV, TSV and JSON lines with a path, a label and perhaps a split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autoslim.core.job import DatasetSpec
from autoslim.data import manifest_file, prepare_dataset
from autoslim.data.sources import count_images, open_source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError


def open_at(path: Path, **wanted):
    return open_source(str(path), seed=0, wanted=Wanted(**wanted))


@pytest.fixture
def root(tmp_path, picture) -> Path:
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for number in range(40):
        (folder / "images" / f"{number}.png").write_bytes(picture(number))
    return folder


ROWS = [(f"images/{number}.png", ("ant", "bee")[number % 2]) for number in range(40)]


def csv_of(root: Path, rows=ROWS, *, name: str = "all.csv", head: str = "path,label") -> Path:
    path = root / name
    between = "\t" if name.endswith(".tsv") else ","
    path.write_text("".join(f"{between.join(row)}\n" for row in [head.split(","), *rows]))
    return path


def lines_of(root: Path, rows=ROWS, *, name: str = "all.jsonl") -> Path:
    path = root / name
    path.write_text("".join(json.dumps({"path": image, "label": label}) + "\n" for image, label in rows))
    return path


@pytest.mark.parametrize("write", [csv_of, lines_of])
@pytest.mark.parametrize("upper", [False, True])
def test_every_image_has_its_label(root, picture, write, upper):
    path = write(root)
    if upper:
        path = path.rename(path.with_suffix(path.suffix.upper()))
    source = open_at(path)
    assert source.classes == ("ant", "bee")
    assert source.train.labels.tolist() == [0, 1] * 20
    rows = list(source.train.rows(np.array([3, 8])))
    assert [data for _, data, _ in rows] == [picture(3), picture(8)]
    assert [name for _, _, name in rows] == [f"{path.name}:3 (images/3.png)", f"{path.name}:8 (images/8.png)"]
    assert source.chosen == ("the images of column path",)


def test_tabs_semicolons_quotes_and_marks_of_the_byte_order_are_read(root):
    assert open_at(csv_of(root, name="all.tsv")).classes == ("ant", "bee")
    path = root / "excel.csv"
    path.write_bytes(b'\xef\xbb\xbffile_name;class\r\nimages/0.png;"red; or blue"\r\nimages/1.png;n\xc3\xa4\xc3\xaf\r\n')
    source = open_at(path)
    assert source.classes == ("näï", "red; or blue")
    assert source.chosen == ("the images of column file_name", "the labels of column class")


def test_splits_are_those_of_the_column_in_any_usual_name(root):
    splits = ["Train", "train", "training", "VAL", "dev", "test", "testing", "train"]
    path = csv_of(root, [(*ROWS[number], split) for number, split in enumerate(splits * 5)], head="path,label,split")
    source = open_at(path)
    assert [len(table.labels) for table in source.tables()] == [20, 10, 10]
    names = [name for _, _, name in source.test.rows(np.arange(3))]
    assert names == ["all.csv:5 (images/5.png)", "all.csv:6 (images/6.png)", "all.csv:13 (images/13.png)"]
    assert [data for _, data, _ in source.test.rows(np.array([2]))] == [(root / "images" / "13.png").read_bytes()]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train", "holdout"], r"column split has 'holdout'; allowed, in any case: train, training, validation"),
        (["train", ""], r"column split has ''"),
        (["test", "val"], r"has no image of train in its column split but only of validation, test"),
    ],
)
def test_splits_of_other_names_are_refused(root, splits, message):
    rows = [(*row, split) for row, split in zip(ROWS, splits * 20, strict=True)]
    with pytest.raises(DatasetError, match=message):
        open_at(csv_of(root, rows, head="path,label,split"))


def test_columns_are_chosen_by_their_flags_and_the_others_are_said(root):
    rows = [(image, str(number), label, "x") for number, (image, label) in enumerate(ROWS)]
    path = csv_of(root, rows, head="where,id,species,label")
    with pytest.raises(DatasetError, match=r"no column 'image' but where, id, species, label; .*--image-column"):
        open_at(path)
    source = open_at(path, image_column="where", label_column="species")
    assert source.classes == ("ant", "bee")
    assert source.not_used == ("the columns id, label",)


def test_labels_that_are_numbers_keep_their_order(root):
    path = csv_of(root, [(image, str(number % 11 + 1)) for number, (image, _) in enumerate(ROWS)])
    assert open_at(path).classes == tuple(map(str, range(1, 12)))


def test_numbers_of_json_are_labels(root):
    path = lines_of(root, [(image, number % 3) for number, (image, _) in enumerate(ROWS)])
    assert open_at(path).classes == ("0", "1", "2")


def test_a_folder_of_manifests_has_one_for_each_split(root):
    csv_of(root, ROWS[:30], name="train.csv")
    csv_of(root, ROWS[30:], name="valid.csv")
    (root / "other").mkdir()
    (root / "notes.txt").touch()
    source = open_at(root)
    assert (len(source.train.labels), len(source.validation.labels), source.test) == (30, 10, None)
    assert source.chosen == ("the images of train.csv, valid.csv, not the folders", "the images of column path")
    assert source.not_used == ("the folder other", "1 files beside the splits")
    assert count_images(str(root), most=100) == 42


def test_folders_of_splits_come_before_manifests(write_images):
    root = write_images({f"{split}/{name}": 2 for split in ("train", "test") for name in ("ant", "bee")})
    csv_of(root, [("train/ant/0.png", "ant")], name="train.csv")
    source = open_at(root)
    assert len(source.train.labels) == 4
    assert source.not_used == ("1 files beside the splits",)


@pytest.mark.parametrize("other", ["val.tsv", "dev.csv"])
def test_two_manifests_of_one_split_are_refused(root, other):
    for name in ("train.csv", "val.csv", other):
        csv_of(root, name=name)
    with pytest.raises(DatasetError, match=r"has both .* and .*; allowed: one manifest for the validation split"):
        open_at(root)


def test_a_folder_without_classes_names_its_manifest(root):
    csv_of(root, name="la bels.csv")
    (root / "images").rename(root / ".images")
    with pytest.raises(DatasetError, match=r"no class folders.*, or a manifest: --data '.*/la bels.csv'"):
        open_at(root)


def test_a_missing_image_is_an_unreadable_one(root, tmp_path):
    path = csv_of(root)
    (root / "images" / "7.png").unlink()
    (root / "images" / "8.png").write_bytes(b"")
    report = prepare_dataset(DatasetSpec(source=str(path), unreadable_share=0.1), tmp_path / "cache", seed=0).report
    splits = (report.train, report.validation, report.test)
    named = sorted(name for split in splits for name in split.named)
    assert sum(split.images for split in splits) == 38
    assert [name.split(": ")[0] for name in named] == ["all.csv:7 (images/7.png)", "all.csv:8 (images/8.png)"]
    with pytest.raises(DatasetError, match="--unreadable-share"):
        prepare_dataset(DatasetSpec(source=str(path)), tmp_path / "cache", seed=0)


@pytest.mark.parametrize("image", ["x" * 300 + ".png", "images/0.png/deeper.png"])
def test_a_name_that_no_file_can_have_is_a_missing_image(root, tmp_path, image):
    path = csv_of(root, [*ROWS, (image, "ant")])
    report = prepare_dataset(DatasetSpec(source=str(path), unreadable_share=0.5), tmp_path / "cache", seed=0).report
    assert report.train.unreadable + report.validation.unreadable + report.test.unreadable == 1
    with pytest.raises(DatasetError, match="none of the first 1 images exists"):
        open_at(csv_of(root, [(image, "ant")]))


def test_paths_of_another_place_are_said_before_anything_is_read(root):
    path = csv_of(root, [(f"/somewhere/{number}", "ant") for number in range(9)])
    with pytest.raises(DatasetError, match=r"row 0: '/somewhere/0' leads out of .*; allowed: paths in that folder"):
        open_at(path)
    path = csv_of(root, [(Path(image).stem, label) for image, label in ROWS])
    with pytest.raises(
        DatasetError, match=r"none of the first 40 images exists, such as .*set/0; paths are relative to the manifest"
    ):
        open_at(path)


def test_absolute_paths_within_the_folder_are_fine(root):
    path = csv_of(root, [(str(root / image), label) for image, label in ROWS])
    assert len(list(open_at(path).train.rows(np.arange(40)))) == 40


@pytest.mark.parametrize("image", ["../secret.png", "images/../../secret.png", "a/../../set2/x.png"])
def test_paths_out_of_the_folder_are_refused(root, image):
    with pytest.raises(DatasetError, match=r"row 1: .* leads out of"):
        open_at(csv_of(root, [ROWS[0], (image, "bee")]))


def test_links_out_of_the_folder_are_refused_when_they_are_read(root, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "images" / "3.png").unlink()
    (root / "images" / "3.png").symlink_to(tmp_path / "secret.png")
    source = open_at(csv_of(root))
    with pytest.raises(DatasetError, match=r"row 3, names the image 'images/3.png', which leads out of"):
        list(source.train.rows(np.arange(40)))


def test_manifests_that_are_links_out_of_the_folder_are_refused(root, tmp_path):
    (root / "train.csv").symlink_to(csv_of(root).rename(tmp_path / "outside.csv"))
    with pytest.raises(DatasetError, match="is a link that leads out of"):
        open_at(root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", b"", "its first line is empty; it has to name the columns, such as path,label"),
        ("a.csv", b"path,label\n", "has no images|has the classes \\(none\\)"),
        ("a.csv", b"path,path,label\nx,y,z\n", "names the column 'path' twice"),
        ("a.csv", b"images/0.png,ant\nimages/1.png,bee\n", "no column 'image' but images/0.png, ant"),
        ("a.csv", b"path,label\nimages/0.png,ant,3\n", "cannot be read as a table: .*Expected 2 columns, got 3"),
        ("a.csv", b"path,label\nimages/0.png,ant\n,bee\n", "row 1: the path is missing"),
        ("a.csv", b"path,label\nimages/0.png,ant\nimages/1.png,\n", "a label is missing or empty"),
        ("a.csv", b"\xff\xfepath,label\n", "is not a text file in UTF-8"),
        ("a.jsonl", b"", "is empty; expected lines such as"),
        ("a.jsonl", b'{"path": "images/0.png", "label": "ant"}\n[1]\n', "line 2 is not a JSON object"),
        ("a.jsonl", b'{"path": "images/0.png", "label": "ant"}\n{"path"\n', "line 2 is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", b'{"path": "images/0.png", "label": "ant"}\n{"path": "images/0.png"}\n', "line 2: label is null; allowed"),
        ("a.jsonl", b'{"path": "images/0.png", "label": ["ant"]}\n', r'line 1: label is \["ant"\]; allowed: a text'),
        ("a.jsonl", b'{"path": "images/0.png", "label": "\\u0000"}\n{"path": "a", "label": "\xff"}', "not a text file in UTF-8"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(root, name, text, message):
    (root / name).write_bytes(text)
    with pytest.raises(DatasetError, match=message):
        open_at(root / name)


def test_a_manifest_that_is_too_large_is_not_opened(root, monkeypatch):
    path = csv_of(root)
    monkeypatch.setattr(manifest_file, "MAX_BYTES", 100)
    for refuse in (open_at, lambda path: count_images(str(path), most=10)):
        with pytest.raises(DatasetError, match=r"allowed for a manifest: at most 100; write it as Parquet"):
            refuse(path)


def test_counting_ends_where_it_is_enough(root):
    assert count_images(str(csv_of(root)), most=100) == 41
    assert count_images(str(csv_of(root)), most=5) > 5


def test_images_alone_need_no_labels(root):
    path = csv_of(root, [(image,) for image, _ in ROWS], head="path")
    source = open_at(path, labelled=False)
    assert (source.classes, len(source.train.labels)) == ((), 40)
    with pytest.raises(DatasetError, match="images without labels are for"):
        open_at(path)


def test_a_changed_image_is_prepared_again(root, picture, tmp_path):
    path = csv_of(root)
    first, again = (prepare_dataset(DatasetSpec(source=str(path)), tmp_path / "cache", seed=0) for _ in range(2))
    (root / "images" / "5.png").write_bytes(picture(77))
    changed = prepare_dataset(DatasetSpec(source=str(path)), tmp_path / "cache", seed=0)
    assert first.path == again.path != changed.path
