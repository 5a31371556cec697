"""What is said while images are prepared, and of what was found."""

from __future__ import annotations

import contextlib

from autoslim.core.job import DatasetSpec
from autoslim.data import prepare, prepare_dataset
from autoslim.data.prepared_folder import prepared_folder
from autoslim.data.progress import Progress


def test_lines_come_now_and_then_with_the_time_that_is_left():
    now, said = [100.0], []
    progress = Progress(800, said.append, clock=lambda: now[0])
    for _ in range(800):
        now[0] += 0.0625
        progress.advance()
    # 50 s in all: the first line after 5 s, and one each 10 s.
    assert [line.split(", ")[0] for line in said] == [f"preparing images: {done} of 800" for done in (80, 240, 400, 560, 720)]
    assert [line.split(", ")[1] for line in said] == [
        "about 45s left",
        "about 35s left",
        "about 25s left",
        "about 15s left",
        "about 5s left",
    ]


def test_what_was_prepared_before_does_not_make_the_rest_look_quick():
    now, said = [0.0], []
    progress = Progress(10_240, said.append, clock=lambda: now[0])
    for done in range(5_680):
        # The first half comes from an earlier preparation.
        now[0] += 1 / 1024 if done < 5_120 else 0.125
        progress.advance()
    assert said[-1] == "preparing images: 5,680 of 10,240, about 9m30s left"


def test_the_space_that_decoded_images_take_is_told_beforehand_also_of_a_set_that_is_taken(write_images, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_TOLD_BYTES", 2**20)
    root, said = str(write_images({"ant": 10, "bee": 10})), []
    for limit in (2**30, 2**29):
        spec, inputs = DatasetSpec(source=root, decoded_limit=limit), [((12, 12), 1.0), ((3000, 4000), 1.0)]
        with monkeypatch.context() as patch:
            # Nothing of this size is decoded here.
            patch.setattr(prepare.PixelCache, "collecting", lambda self: contextlib.nullcontext(_Nothing()))
            prepare_dataset(spec, tmp_path / str(limit), seed=0, inputs=inputs, tell=said.append)
    line = "20 images of 3000x4000 pixels take 0.7 GiB decoded"
    assert said == [
        f"{line}, of the 1.0 GiB that there is room for (--decoded-limit): they are decoded once",
        f"{line}, more than the 0.5 GiB that there is room for (--decoded-limit): they are decoded while they are read",
        f"20 images are taken prepared from {prepared_folder()}",
    ]


class _Nothing:
    """A collector of no image."""

    size, count = (12, 12), 0

    def has(self, content: bytes) -> bool:
        return False

    def wants(self, content: bytes) -> bool:
        return False


def test_small_sets_are_prepared_without_a_word(write_images, tmp_path):
    said = []
    prepare_dataset(DatasetSpec(source=str(write_images({"ant": 9, "bee": 9}))), tmp_path / "cache", seed=0, tell=said.append)
    assert said == []


def test_what_was_found_is_said_with_the_first_classes(write_images, tmp_path):
    counts = {f"{split}/class{number}": 2 for split in ("train", "val", "test") for number in range(7)}
    root = write_images(counts)
    (root / "extra").mkdir()
    lines = prepare_dataset(DatasetSpec(source=str(root)), tmp_path / "cache", seed=0).report.lines(precision=False)
    assert lines == [
        "14 train, 14 validation (given), 14 test (given); 0 unreadable",
        "7 classes: class0, class1, class2, class3, class4, ...",
        "not used: the folder extra, which is no split",
    ]
