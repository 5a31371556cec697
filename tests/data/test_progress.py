"""What is said while images are prepared, and of what was found."""

from __future__ import annotations

from autoslim.core.job import DatasetSpec
from autoslim.data import prepare_dataset
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
