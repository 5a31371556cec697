"""Copies of one image in two splits or with two labels, and classes of very different sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoslim.core.job import DatasetSpec
from autoslim.data import open_dataset, prepare_dataset
from autoslim.data.copies import HASH_BYTES, Contents, content_hash, find_copies
from autoslim.errors import DatasetError


def prepared(root: Path, tmp_path: Path, **choices):
    return prepare_dataset(DatasetSpec(source=str(root), **choices), tmp_path / "cache", seed=0)


@pytest.fixture
def root(write_images, picture) -> Path:
    """Three training images of ants are test images, too, one of which is a bee there; another ant is a bee of train as well."""
    root = write_images({f"{split}/{name}": 20 for split in ("train", "val", "test") for name in ("ant", "bee")})
    for name, (one, other) in {
        "x": ("train/ant", "test/ant"),
        "y": ("train/ant", "val/ant"),
        "z": ("train/ant", "test/bee"),
        "w": ("train/ant", "train/bee"),
        "same": ("train/bee", "train/bee/again"),
    }.items():
        for folder in (one, other):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / f"{name}.png").write_bytes(picture(ord(name[0])))
    return root


def test_they_are_counted_and_named(root, tmp_path):
    report = prepared(root, tmp_path).report
    assert report.suspicious == (
        "3 training images are in the validation or test split, too (train/ant/x.png, train/ant/y.png, train/ant/z.png), which makes a "
        "model look more accurate than it is; --drop-duplicates leaves them out of train",
        "4 images have a copy with another label (train/ant/w.png, train/ant/z.png, train/bee/w.png, ...); --drop-duplicates leaves them "
        "out of train",
    )
    assert (report.train.images, report.train.dropped) == (47, 0)


def test_they_are_left_out_of_train_on_request(root, tmp_path):
    kept, dropped = prepared(root, tmp_path), prepared(root, tmp_path, drop_duplicates=True)
    report = dropped.report
    assert report.suspicious == ("5 images are left out of train, since they have copies in another split or with another label",)
    assert (report.train.images, report.train.per_class, report.train.dropped) == (42, (20, 22), 5)
    assert [split.images for split in (report.validation, report.test)] == [41, 42]
    assert kept.digest != dropped.digest
    splits = open_dataset(dropped.path).splits((12, 12))
    train, *others = (
        {image.tobytes() for image in split.images(np.arange(len(split)))}
        for split in (splits.train, splits.validation, splits.test)
    )
    assert not any(train & other for other in others)
    assert splits.train.labels.tolist() == [0] * 20 + [1] * 22
    assert not list(dropped.path.glob("*.new"))


def test_a_set_without_copies_is_the_same_with_the_request(write_images, tmp_path):
    root = write_images({"ant": 10, "bee": 10})
    plain, asked = prepared(root, tmp_path), prepared(root, tmp_path, drop_duplicates=True)
    assert plain.report.suspicious == asked.report.suspicious == ()
    assert plain.report.train == asked.report.train


def test_copies_in_drawn_splits_are_found_too(write_images, picture, tmp_path):
    root = write_images({"ant": 30, "bee": 30})
    for number in range(30):
        (root / "ant" / f"copy{number}.png").write_bytes(picture(number))
    (first,) = prepared(root, tmp_path).report.suspicious
    assert "training images are in the validation or test split, too (ant/" in first


def test_copies_of_validation_images_in_test_are_said(write_images, picture, tmp_path):
    root = write_images({f"{split}/{name}": 3 for split in ("train", "val", "test") for name in ("ant", "bee")})
    for split in ("val", "test"):
        (root / split / "ant" / "x.png").write_bytes(picture(77_777))
    assert prepared(root, tmp_path).report.suspicious == ("1 validation images are in the test split, too (val/ant/x.png)",)


def test_a_class_that_is_all_copies_is_refused(write_images, picture, tmp_path):
    root = write_images({f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("ant", "bee")})
    for number in range(2):
        (root / "test" / "bee" / f"{number}.png").write_bytes((root / "train" / "bee" / f"{number}.png").read_bytes())
    with pytest.raises(
        DatasetError, match=r"class 'bee' has no readable image in the train split; 2 are left out by --drop-duplicates"
    ):
        prepared(root, tmp_path, drop_duplicates=True)


@pytest.mark.parametrize(("ants", "said"), [(201, True), (200, False)])
def test_an_imbalance_past_one_to_a_hundred_is_said(write_images, picture, tmp_path, ants, said):
    root = write_images({f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("ant", "bee")})
    for number in range(ants - 2):
        (root / "train" / "ant" / f"more{number}.png").write_bytes(picture(10_000 + number))
    expected = (
        "class 'ant' has 201 training images and class 'bee' 2, more than 100 to 1: accuracy says little about the small classes",
    )
    assert prepared(root, tmp_path).report.suspicious == (expected if said else ())


def test_images_alone_have_no_labels_to_contradict(root, tmp_path):
    (only,) = prepared(root, tmp_path, labelled=False).report.suspicious
    assert only.startswith("3 training images are in")


def test_hashes_that_end_in_zeros_are_told_apart():
    one, other = Contents(), Contents()
    one.add(b"a" + bytes(HASH_BYTES - 1), 0)
    other.add(b"a" + bytes(HASH_BYTES - 2) + b"\1", 0)
    assert not len(find_copies({"train": one, "validation": other, "test": Contents()}).shared["train"])
    assert len(content_hash(b"")) == HASH_BYTES
