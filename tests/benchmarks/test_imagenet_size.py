"""The table of a set of ImageNet's size: which bounds are kept, and that the generated sets are what they claim."""

from __future__ import annotations

from pathlib import Path

import imagenet_size
import numpy as np
import pytest
from imagenet_size import Step, Workplace, generate, images_of, tables

from autoslim.data.sources import open_source


def step(layout: str, name: str, *, mib: float, seconds: float = 1.0) -> Step:
    return Step(layout=layout, step=name, images=1_281_167, seconds=seconds, mib=mib, children_mib=0.0)


def search(layout: str, name: str, *, mib: float = 900.0, trial: float = 700.0, ready: float = 9.0) -> Step:
    return step(layout, name, mib=mib).replace(trial_mib=trial, ready_seconds=ready, trial_begins_seconds=60.0)


SMALL = [step("small", "trial, decoding", mib=400.0), search("small", "search"), search("small", "second search")]


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (step("shards", "prepare", mib=2_000.0), True),
        (step("shards", "prepare", mib=2_100.0), False),
        (step("shards", "start again", mib=500.0, seconds=9.9), True),
        (step("shards", "start again", mib=500.0, seconds=10.1), False),
        (step("shards", "trial, decoding", mib=460.0), True),
        (step("shards", "trial, decoding", mib=470.0), False),
        (step("shards", "generate", mib=9_000.0), True),
        (search("shards", "search", ready=600.0), True),
        (search("shards", "search", mib=2_100.0), False),
        (search("shards", "second search", trial=760.0), True),
        (search("shards", "second search", trial=770.0), False),
        (search("shards", "second search", ready=10.1), False),
    ],
)
def test_each_step_is_held_to_its_bound(found: Step, kept: bool) -> None:
    text, every = tables([*SMALL, found])
    assert every is kept
    assert ("**passed**" in text) is not kept


def test_what_was_generated_is_not_generated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet_size, "SHARDS", 3)
    monkeypatch.setattr(imagenet_size, "CLASSES", 5)
    for layout in ("shards", "folders"):
        place = Workplace(output=tmp_path, layout=layout)
        generate(place, 23)
        written = {path: path.stat().st_mtime_ns for path in place.source.rglob("*") if path.is_file()}
        generate(place, 23)
        assert {path: path.stat().st_mtime_ns for path in place.source.rglob("*") if path.is_file()} == written
        train = open_source(str(place.source), seed=0).train
        assert len(train.labels) == 23
        assert len({data for _, data, _ in train.rows(np.arange(23))}) == 23


def test_every_class_has_images_for_each_split() -> None:
    assert images_of("small", 1_281_167, 1.0) == images_of("shards", 10, 1.0) == 4_000
