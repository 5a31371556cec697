"""Folders that are no classes, as data sets of the wild have them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoslim.core.job import DatasetSpec
from autoslim.data import prepare_dataset
from autoslim.data.sources import open_source
from autoslim.errors import DatasetError

READ_NEXT = "name each with its class in a manifest, a CSV with the columns path, label and perhaps split, as --data"


@pytest.mark.parametrize(
    "folders",
    [
        ("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"),
        ("train_images", "test_images"),
        ("train2017", "val2017"),
        ("images", "annotations/trimaps"),
        ("Images", "Labels"),
        ("split_0/a", "split_1/a"),
    ],
)
def test_parts_of_a_data_set_are_never_taken_for_classes(folders, write_images):
    root = write_images(dict.fromkeys(folders, 4))
    with pytest.raises(DatasetError, match="which are named like parts of a data set and not like its classes") as error:
        open_source(str(root), seed=0)
    assert READ_NEXT in str(error.value)


@pytest.mark.parametrize(
    "folders", [("images", "drawings"), ("0", "1", "10"), ("parts", "cats"), ("fold", "crease"), ("docile", "dogs")]
)
def test_one_name_that_could_be_a_class_is_enough(folders, write_images):
    assert open_source(str(write_images(dict.fromkeys(folders, 4))), seed=0).classes == tuple(sorted(folders))


def test_flat_images_of_one_split_are_no_class(write_images):
    root = write_images({"train/ant/images": 6, "train/bee/images": 6, "val/images": 6})
    with pytest.raises(DatasetError, match=r"images/val has the folders images, which are named like parts"):
        open_source(str(root), seed=0)


def test_classes_one_folder_deeper_are_named_with_the_flag(write_images, picture):
    root = write_images({"my flowers/red": 4, "my flowers/blue": 4, "attributes": 0})
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._red.png").write_bytes(b"")
    expected = (
        f"{root} has images in one folder only, my flowers; attributes beside it has no images. Its folders blue, red may be the classes: "
        f"give --data '{root / 'my flowers'}'"
    )
    with pytest.raises(DatasetError, match=f"^{re.escape(expected)}$"):
        open_source(str(root), seed=0)
    assert open_source(str(root / "my flowers"), seed=0).classes == ("blue", "red")


def test_leftovers_of_archives_are_no_classes(write_images):
    root = write_images({"ant": 4, "bee": 4, "__MACOSX/ant": 4, "@eaDir/x": 2})
    assert open_source(str(root), seed=0).classes == ("ant", "bee")


def test_an_empty_class_says_what_to_do(write_images):
    root = write_images({"ant": 4, "bee": 4, "notes": 0})
    with pytest.raises(DatasetError, match=r"class 'notes' is empty: .* if it is no class, move it out of .*/images$"):
        open_source(str(root), seed=0)


def test_joined_folders_are_said(write_images, tmp_path):
    root = write_images({"animals/cat": 8, "animals/dog": 8, "vehicles/car": 8, "vehicles/bus": 8})
    lines = prepare_dataset(DatasetSpec(source=str(root)), tmp_path / "cache", seed=0).report.lines()
    assert "taken: each class with the images of its folders: animals from cat, dog; vehicles from bus, car" in lines


def test_classes_within_sites_are_asked_about(write_images):
    root = write_images({f"{site}/{name}": 4 for site in ("north", "south") for name in ("cat", "dog")})
    assert open_source(str(root), seed=0).chosen[1] == (
        "cat, dog are in each of north, south: if they are the classes, sort the images into a folder for each"
    )


def test_a_table_that_is_no_manifest_is_not_offered_as_one(write_images):
    root = write_images({"train": 4})
    (root / "sample_submission.csv").write_text("id,label\n1,0.5\n")
    with pytest.raises(DatasetError, match=r"; no manifest of images and labels: sample_submission\.csv \(columns id, label\)"):
        open_source(str(root), seed=0)
    (root / "labels.csv").write_text("path,label\ntrain/0.png,ant\n")
    with pytest.raises(DatasetError, match=r", or a manifest: --data .*/labels\.csv"):
        open_source(str(root), seed=0)


def test_packed_arrays_are_no_images_without_labels(tmp_path: Path):
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(
        DatasetError, match=r"has no images and no class folders but \.gz; .*packed files have to be written so first"
    ):
        open_source(str(tmp_path), seed=0)


@pytest.mark.parametrize("name", ["arrays.npz", "project-1.json", "notes.xml"])
def test_a_file_of_something_else_is_not_called_bad_parquet(name, tmp_path):
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(DatasetError, match=r"is no data set that can be read; allowed: Parquet, a manifest .* or a folder"):
        open_source(str(tmp_path / name), seed=0)


def test_the_hubs_image_folder_has_its_labels_beside_the_images(write_images):
    root = write_images({"train": 6, "test": 4})
    for split, count in (("train", 6), ("test", 4)):
        rows = [f"{number}.png,{'ant' if number % 2 else 'bee'}" for number in range(count)]
        (root / split / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    source = open_source(str(root), seed=0)
    assert source.classes == ("ant", "bee")
    assert source.train.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert source.test is not None
    assert source.test.labels.tolist() == [1, 0, 1, 0]
    assert source.chosen[0] == "the images of train/metadata.csv, test/metadata.csv, not the folders"
