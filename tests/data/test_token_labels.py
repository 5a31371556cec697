"""Labels of patches: read from every kind of file without running any, and kept with the images that they belong to."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from autoslim.core.job import DatasetSpec
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.data.token_label_file import decode_token_labels
from autoslim.errors import DatasetError


def label_map(number: int, *, classes: int = 2, side: int = 3) -> torch.Tensor:
    """Of image `number`: scores that tell it from others, and its classes."""
    source = np.random.default_rng(number)
    scores = source.integers(-8, 8, (2, side, side)) + number / 64
    return torch.from_numpy(np.stack([scores, source.integers(0, classes, (2, side, side))])).half()


def as_torch(array: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(array, buffer)
    return buffer.getvalue()


def as_old_torch(array: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(array, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def as_numpy(array: Any, *, order: str = "C") -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array, order=order))  # type: ignore[call-overload]
    return buffer.getvalue()


def as_safetensors(array: Any) -> bytes:
    return safetensors.torch.save({"labels": array})


KINDS: dict[str, Callable[[Any], bytes]] = {
    ".pt": as_torch,
    "an old .pt": as_old_torch,
    ".npy": as_numpy,
    "a .npy by columns": lambda array: as_numpy(array, order="F"),
    "a .npy of another machine": lambda array: as_numpy(np.asarray(array).astype(">f8")),
    ".safetensors": as_safetensors,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_map(kind: str):
    found = decode_token_labels(KINDS[kind](label_map(5)), classes=2)
    scores, classes = label_map(5).unbind(0)
    assert np.array_equal(found.scores, scores.numpy())
    assert np.array_equal(found.classes, classes.numpy())


class Runs:
    """As a pickle it would make a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def _compressed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name in archive.namelist():
            out.writestr(name, archive.read(name))
    return buffer.getvalue()


def test_what_would_run_code_is_refused_and_not_run(tmp_path: Path):
    evil = Runs(tmp_path / "made")
    objects = io.BytesIO()
    np.save(objects, np.array([evil], dtype=object), allow_pickle=True)
    for data in (as_torch(evil), as_old_torch([evil]), pickle.dumps(evil), objects.getvalue()):
        with pytest.raises(DatasetError, match=r"without running what it holds|NumPy file of object|it is no array"):
            decode_token_labels(data, classes=2)
    assert not (tmp_path / "made").exists()


def _with(place: int, value: float, *, like: torch.Tensor | None = None) -> torch.Tensor:
    array = (label_map(1) if like is None else like).clone()
    array[place, 0, 0, 0] = value
    return array


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "there is none"),
    "too much": (b"\x80" * 2_000_000, "larger than 1,048,576 bytes"),
    "a text": (b"cat", "it is no array"),
    "a damaged archive": (b"PK\x03\x04" + b"x" * 50, "cannot be read"),
    "a compressed archive": (_compressed(as_torch(torch.zeros(2, 5, 30, 30))), "compressed archive"),
    "several tensors": (as_torch({"a": label_map(1), "b": label_map(2)}), "holds a dict"),
    "a sparse tensor": (as_torch(label_map(1).float().to_sparse()), "cannot be read|no plain array"),
    "scores alone": (as_numpy(label_map(1)[0]), r"an array \(2, 3, 3\)"),
    "too many places": (as_numpy(np.zeros((2, 5, 65, 2), np.float16)), "at most 32 classes at each of 64x64"),
    "a header that promises more": (as_numpy(label_map(1))[:-1], "NumPy file of float16"),
    "a class that there is not": (as_torch(_with(1, 2)), "has the class 2; allowed: 0 to 1"),
    "a class below 0": (as_torch(_with(1, -1)), "has the class -1"),
    "half a class": (as_torch(_with(1, 0.5)), "no whole numbers"),
    "no number": (as_torch(_with(0, float("nan"))), "half precision cannot hold"),
    "a score beyond half precision": (as_torch(_with(0, 1e5, like=label_map(1).float())), "half precision cannot hold"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_map_is_refused_with_the_reason(case: str):
    data, reason = REFUSED[case]
    with pytest.raises(DatasetError, match=reason):
        decode_token_labels(data, classes=2)


def test_a_class_that_half_precision_may_have_rounded_is_refused():
    array = _with(1, 3000)
    with pytest.raises(DatasetError, match="not all whole numbers above 2048"):
        decode_token_labels(as_torch(array), classes=5000)
    assert decode_token_labels(as_torch(array.float()), classes=5000).classes.max() == 3000


def table_of(maps: list[bytes | None], images: list[bytes]) -> pa.Table:
    labels = [number % 2 for number in range(len(images))]
    return pa.table({"image": images, "label": labels, "patches": pa.array(maps, pa.binary())})


def prepared(source: Path, token_labels: str, tmp_path: Path, **spec: Any) -> PreparedDataset:
    return prepare_dataset(DatasetSpec(source=str(source), token_labels=token_labels, **spec), tmp_path / "cache", seed=0)


def scores_by_number(dataset: PreparedDataset, number_of: Callable[[str], int]) -> dict[int, np.ndarray]:
    """The scores of each training image by its number in the source."""
    split = dataset.splits((8, 8)).train
    indices = np.arange(len(split))
    assert split.token_labels is not None
    maps = split.token_labels.maps(indices)
    assert maps.classes.dtype == np.uint8
    return dict(zip(map(number_of, dataset.names("train", indices)), maps.scores, strict=True))


def check_each_has_its_own(found: dict[int, np.ndarray]) -> None:
    assert all(np.array_equal(scores, label_map(number)[0].numpy()) for number, scores in found.items())


def test_a_column_of_parquet_is_kept_image_by_image(picture: Callable[[int], bytes], tmp_path: Path):
    images = [picture(number) for number in range(24)]
    # One cannot be read, and two are the same with different labels: all three are left out.
    images[3], images[9] = b"broken", images[4]
    path = tmp_path / "all.parquet"
    pq.write_table(table_of([as_numpy(label_map(number)) for number in range(24)], images), path)
    dataset = prepared(path, "patches", tmp_path, unreadable_images=1, drop_duplicates=True)
    found = scores_by_number(dataset, lambda name: int(name.rpartition(":")[2]))
    assert not {3, 4, 9} & {*found}
    check_each_has_its_own(found)
    assert dataset.splits((8, 8)).validation.token_labels is None
    said = f"taken: labels of patches for {len(found)} training images: 2 classes at each of 3x3 places"
    assert said in dataset.report.lines()
    assert not any("patches" in line for line in dataset.report.not_used)


def write_folder(root: Path, numbers: range) -> None:
    for number in numbers:
        file = root / "ab"[number % 2] / f"{number}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(as_torch(label_map(number)))


def write_classes(root: Path, picture: Callable[[int], bytes], count: int = 16) -> None:
    for number in range(count):
        file = root / "train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))


def test_a_folder_in_the_papers_layout_is_kept_image_by_image(picture: Callable[[int], bytes], tmp_path: Path):
    write_classes(tmp_path / "images", picture)
    write_folder(tmp_path / "labels", range(16))
    dataset = prepared(tmp_path / "images", str(tmp_path / "labels"), tmp_path)
    found = scores_by_number(dataset, lambda name: int(Path(name).stem))
    check_each_has_its_own(found)
    # Other labels are other data: the dense model is trained again.
    (tmp_path / "labels" / "a" / f"{min(n for n in found if n % 2 == 0)}.pt").write_bytes(as_torch(label_map(99)))
    assert prepared(tmp_path / "images", str(tmp_path / "labels"), tmp_path).digest != dataset.digest
    plain = prepare_dataset(DatasetSpec(source=str(tmp_path / "images")), tmp_path / "cache", seed=0)
    assert plain.splits((8, 8)).train.token_labels is None
    assert plain.digest != dataset.digest


@pytest.mark.parametrize("images", ["here", "at a URI"])
def test_a_folder_at_a_uri_is_the_folder_that_it_is_locally(
    images: str, picture: Callable[[int], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "node"))
    write_classes(tmp_path / "images", picture)
    write_folder(tmp_path / "labels", range(16))
    local, labels = prepared(tmp_path / "images", str(tmp_path / "labels"), tmp_path), (tmp_path / "labels").as_uri()
    source = (tmp_path / "images") if images == "here" else (tmp_path / "images").as_uri()
    remote = prepare_dataset(DatasetSpec(source=str(source), token_labels=labels), tmp_path / "cache", seed=0)
    assert remote.digest == local.digest
    # Other labels are another data set.
    (tmp_path / "labels" / "a" / "0.pt").unlink()
    with pytest.raises(DatasetError, match=f"token_labels is '{labels}', which has no a/0 ") as found:
        prepare_dataset(DatasetSpec(source=str(source), token_labels=labels), tmp_path / "cache", seed=0)
    assert str(tmp_path / "node") not in str(found.value)


def test_an_image_without_labels_is_named(picture: Callable[[int], bytes], tmp_path: Path):
    write_classes(tmp_path / "images", picture)
    write_folder(tmp_path / "labels", range(8))
    with pytest.raises(DatasetError, match=r"labels/a/1\d\.pt cannot be used: there is none"):
        prepared(tmp_path / "images", str(tmp_path / "labels"), tmp_path)


def test_maps_of_two_sizes_are_refused(picture: Callable[[int], bytes], tmp_path: Path):
    path = tmp_path / "all.parquet"
    maps: list[bytes | None] = [as_numpy(label_map(number, side=3 + (number > 11))) for number in range(24)]
    pq.write_table(table_of(maps, [picture(number) for number in range(24)]), path)
    with pytest.raises(DatasetError, match=r"have the shape \(2, 4, 4\), and others \(2, 3, 3\)"):
        prepared(path, "patches", tmp_path)


def test_where_there_are_none_the_error_says_what_is_expected(picture: Callable[[int], bytes], tmp_path: Path):
    write_classes(tmp_path / "images", picture)
    table = tmp_path / "all.parquet"
    pq.write_table(table_of([None] * 8, [picture(number) for number in range(8)]), table)
    cases = [
        (tmp_path / "images", "patches", "a column, but .* is a folder of images"),
        (tmp_path / "images", str(tmp_path / "nowhere"), r"has no a/\d+ with one of the suffixes \.pt, \.npy, \.safetensors"),
        (table, "labels", "has no column 'labels' of bytes for --token-labels"),
        (table, "label", "has no column 'label' of bytes"),
        (table, "./labels", "a folder, but .* has columns"),
        (table, "patches", r"all\.parquet:\d+, column patches cannot be used: there is none"),
    ]
    for source, token_labels, reason in cases:
        with pytest.raises(DatasetError, match=reason):
            prepared(source, token_labels, tmp_path)
    with pytest.raises(
        DatasetError, match=r"--token-labels is 'x', but digits .* no labels of patches; leave --token-labels out"
    ):
        prepare_dataset(DatasetSpec(source="digits", token_labels="x"), tmp_path / "cache", seed=0)


def test_a_link_out_of_the_folder_of_labels_is_refused(picture: Callable[[int], bytes], tmp_path: Path):
    write_classes(tmp_path / "images", picture)
    write_folder(tmp_path / "labels", range(16))
    secret = tmp_path / "secret.pt"
    secret.write_bytes(as_torch(label_map(1)))
    for number in range(0, 16, 2):
        link = tmp_path / "labels" / "a" / f"{number}.pt"
        link.unlink()
        link.symlink_to(secret)
    with pytest.raises(DatasetError, match="is a link that leads out of"):
        prepared(tmp_path / "images", str(tmp_path / "labels"), tmp_path)
