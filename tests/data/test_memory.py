"""What a data set takes in memory: a few bytes an image, and no object of Python's."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoslim.core.job import DatasetSpec
from autoslim.data import path_list, set_keys
from autoslim.data.cache import EncodedFile, write_encoded
from autoslim.data.copies import content_hash
from autoslim.data.image_listing import list_images
from autoslim.data.path_list import PathList, path_array
from autoslim.data.pixel_file import PixelFile, check_of, keys_of, write_pixels
from autoslim.data.set_keys import SetKeys
from autoslim.data.sources import open_source
from autoslim.data.splits import _draw
from autoslim.data.table import Source, Table, joined

FEW = 300
"""Objects, where there are thousands of images."""


def grown(action: Callable[[], Any]) -> int:
    """By how many objects an action, whose result is kept until then, makes the memory grow."""
    gc.collect()
    before = sys.getallocatedblocks()
    result = action()
    gc.collect()
    after = sys.getallocatedblocks()
    del result
    return after - before


def folder_of(root: Path, count: int) -> str:
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for number in range(count // 2):
            (root / name / f"{number:06}.png").touch()
    return str(root)


def test_a_folder_is_listed_without_an_object_for_each_image(tmp_path: Path):
    small, large = folder_of(tmp_path / "small", 100), folder_of(tmp_path / "large", 3_000)
    open_source(small, seed=0)  # what is imported and kept at first use
    assert grown(lambda: open_source(large, seed=0)) - grown(lambda: open_source(small, seed=0)) < FEW


def test_files_are_looked_at_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(path_list, "_AT_ONCE", 20)
    source = open_source(folder_of(tmp_path / "images", 2_000), seed=0)
    files = source.fingerprint()
    next(files)
    assert grown(lambda: [next(files) for _ in range(30)][:0]) < FEW
    assert len(list(files)) == 2_000 - 31


def test_rows_of_a_shard_are_chosen_without_a_set_of_them(write_parquet, picture):
    labels = [number % 2 for number in range(4_000)]
    table = open_source(str(write_parquet("all.parquet", labels, images=[b"no image"] * 4_000)), seed=0).train
    next(table.rows(np.arange(10)))

    def first_of(count: int) -> Any:
        rows = table.rows(np.arange(count))
        return next(rows), rows

    assert grown(lambda: first_of(4_000)) - grown(lambda: first_of(10)) < FEW


def test_rows_are_those_that_are_wanted_across_batches_and_files(write_parquet, picture):
    for number in range(3):
        images = [f"{number} {row}".encode() for row in range(40)]
        write_parquet(f"train-{number:05}-of-00003.parquet", [0, 1] * 20, images=images)
    root = write_parquet("test.parquet", [0, 1]).parent
    wanted = np.array([0, 15, 16, 39, 41, 79, 118, 119])
    rows = list(open_source(str(root), seed=0).train.rows(wanted))
    assert [row for row, _, _ in rows] == wanted.tolist()
    assert [data for _, data, _ in rows] == [f"{row // 40} {row % 40}".encode() for row in wanted.tolist()]


def test_a_file_of_which_nothing_is_wanted_is_not_read():
    def broken(wanted: Any) -> Any:
        raise AssertionError("it is read")

    def found(wanted: Any) -> Any:
        yield from ((int(row), b"", "") for row in wanted)

    tables = [
        Table(name="a", labels=np.zeros(5, np.int64), rows=broken),
        Table(name="b", labels=np.zeros(5, np.int64), rows=found),
    ]
    assert [row for row, _, _ in joined(tables, "both").rows(np.array([6, 8]))] == [6, 8]


def resident(path: Path) -> int:
    """KiB of this process's memory that are pages of a file."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(int(next(line for line in lines if line.startswith("Rss:")).split()[1]) for line in lines if str(path) in line)


def test_encoded_images_that_were_read_are_not_resident(tmp_path: Path):
    path = tmp_path / "train.arrow"
    images = [bytes([number]) * 2**16 for number in range(1, 65)]
    write_encoded(path, ((data, number % 3, f"image {number}") for number, data in enumerate([*images, b""])))
    file = EncodedFile(path)
    assert [file.bytes_of(index) for index in range(65)] == [*images, b""]
    assert file.labels.tolist() == [number % 3 for number in range(65)]
    assert file.name_of(64) == "image 64"
    assert resident(path) < 256
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(OSError, match="became shorter"):
        file.bytes_of(63)


def test_decoded_images_are_read_and_not_mapped(tmp_path: Path):
    path, pixels = tmp_path / "train.pixels", np.random.default_rng(0).integers(0, 256, (7, 3, 5, 3), dtype=np.uint8)
    keys = keys_of(b"".join(content_hash(bytes([number])) for number in range(7)))
    write_pixels(path, keys, ((image.tobytes(), check_of(image.tobytes(), b"")) for image in pixels))
    file = PixelFile(path, (3, 5))
    for indices in ([], [3], [0, 1, 2, 6, 5, 5, 6], list(range(7))):
        assert np.array_equal(file.images(np.array(indices, np.int64)), pixels[indices])
    assert str(path) not in Path("/proc/self/maps").read_text()
    with pytest.raises(IndexError, match="has 7 images, and not all of 2 to 7"):
        file.images(np.array([2, 7]))
    os.truncate(path, 50)
    with pytest.raises(OSError, match="became shorter"):
        file.images(np.array([6]))


def test_images_are_listed_in_the_order_of_their_paths(tmp_path: Path):
    for place in ("b.png", "a/1.png", "a-b/1.png", "a/2.PNG", "a.png", "a/x/9.jpg", ".hidden/1.png", "a/.no.png", "a/notes.txt"):
        (tmp_path / "cat" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cat" / place).touch()
    (tmp_path / "cat" / "link").symlink_to(tmp_path / "cat" / "a")
    (tmp_path / "cat" / "circle").symlink_to(tmp_path / "cat" / "circle")
    told: list[str] = []
    found = list_images(tmp_path, tmp_path / "cat", told.append)
    paths = [Path(path) for path in PathList(tmp_path, [found.places])]
    assert paths == sorted(paths)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "cat/a/1.png",
        "cat/a/2.PNG",
        "cat/a/x/9.jpg",
        "cat/a-b/1.png",
        "cat/a.png",
        "cat/b.png",
    ]
    assert found.inner == ("a", "a-b")
    assert sorted(told) == ["files ending in .txt", "files without a suffix", "links to folders, which are not followed"]


def test_paths_are_those_that_were_given_whatever_their_bytes(tmp_path: Path):
    odd = os.fsdecode(b"\xff.png")
    paths = PathList(tmp_path, [path_array(["a/1.png"]), path_array([odd])])
    assert len(paths) == 2
    assert list(paths) == [str(tmp_path / "a/1.png"), str(tmp_path / odd)]
    assert (paths.place(1), paths.path(0)) == (odd, tmp_path / "a/1.png")
    assert list(PathList(Path(), [path_array(["a/1.png"])])) == ["a/1.png"]


def test_the_key_of_a_prepared_set_is_the_hash_of_one_json_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(set_keys, "_FILES_AT_ONCE", 2)
    table = Table(name="train", labels=np.zeros(1, np.int64), rows=lambda wanted: iter(()))
    (tmp_path / "there").write_bytes(b"12345")
    files = (tmp_path / "there", PathList(tmp_path, [path_array(["gone", "there", "gone too"])]), tmp_path / "there")
    for some in (files, files[:1], ()):
        source, spec = Source(name="x", classes=(), train=table, files=some), DatasetSpec(source="x")
        stamps = [(path, size, written) for path, size, written, _ in source.fingerprint()]
        whole = json.dumps([set_keys.LAYOUT, spec.to_dict(), 3, stamps], sort_keys=True)
        assert SetKeys.of(spec, source.fingerprint(), 3).own == hashlib.sha256(whole.encode()).hexdigest()[:16]
    assert [size for _, size, *_ in Source(name="x", classes=(), train=table, files=files).fingerprint()] == [5, -1, 5, -1, 5]


def test_classes_are_drawn_from_as_if_each_were_looked_for():
    labels = np.random.default_rng(1).integers(0, 9, 400)
    labels[labels == 4] = 3
    allocated = np.array([3, 1, 5, 7, 0, 2, 1, 1, 4])
    generator = np.random.default_rng([5, zlib.crc32(b"test")])
    expected = [generator.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(allocated)]
    assert np.array_equal(_draw(labels, allocated, 5, "test"), np.sort(np.concatenate(expected)))
