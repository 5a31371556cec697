"""The hub's layout with several configurations, each in a folder of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoslim.data.sources import count_images, open_source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError

TRAIN, TEST = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"


def open_at(path: Path, config: str | None = None):
    return open_source(str(path), seed=0, wanted=Wanted(config=config))


@pytest.fixture
def put(write_parquet, tmp_path):
    def move(*names: str, count: int = 4) -> Path:
        for number, name in enumerate(names):
            target = tmp_path / "set" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_parquet("made.parquet", [0, 1] * (count // 2), names=["ant", "bee"], first=10 * number).rename(target)
        return tmp_path / "set"

    return move


def test_one_of_several_is_chosen_by_its_name(put):
    root = put(f"small/{TRAIN}", f"small/{TEST}")
    put(f"large/{TRAIN}", count=8)
    source = open_at(root, "large")
    assert (len(source.train.labels), source.test) == (8, None)
    assert (source.chosen, source.not_used) == ((), ("the configuration small",))
    assert open_at(root, "small").test is not None
    assert count_images(str(root), most=100, wanted=Wanted(config="large")) == 8


def test_several_without_a_choice_are_listed_with_the_flag(put):
    root = put(f"small/{TRAIN}", f"large/{TRAIN}", f"data/{TRAIN}")
    with pytest.raises(DatasetError, match=r"has the configurations data, large, small; choose one with --data-config data"):
        open_at(root)


def test_a_single_one_is_taken_and_said(put):
    source = open_at(put(f"plain/{TRAIN}", "README.md"))
    assert source.chosen == ("the configuration plain",)
    assert source.not_used == ("1 files beside the splits",)


@pytest.mark.parametrize("config", ["other", "../small", "small/", "", "/etc", "train"])
def test_one_that_is_not_there_is_refused_by_its_name_alone(put, config):
    with pytest.raises(DatasetError, match=r"has no configuration .*; allowed for --data-config: large, small"):
        open_at(put(f"small/{TRAIN}", f"large/{TRAIN}"), config)


@pytest.mark.parametrize("places", [("{}/train/0000.parquet", "{}/test/0000.parquet"), ("{}/data/train.parquet",)])
def test_its_files_may_lie_in_folders_of_splits_or_in_data(put, places):
    root = put(*(place.format(name) for place in places for name in ("small", "large")))
    assert len(open_at(root, "small").train.labels) == 4


def test_folders_of_splits_may_hold_shards_of_any_name(put):
    source = open_at(put("train/0000.parquet", "train/0001.parquet", "validation/0000.parquet"))
    assert (len(source.train.labels), len(source.validation.labels), source.not_used) == (8, 4, ())


def test_folders_of_classes_with_a_stray_file_stay_classes(put, write_images, picture):
    root = write_images({"ant": 2, "bee": 2, "train/ant": 2, "train/bee": 2})
    put(TRAIN)
    (root.parent / "set" / TRAIN).rename(root / "train" / TRAIN)
    assert open_at(root).classes == ("ant", "bee")


def test_a_linked_configuration_is_no_way_out(put, tmp_path):
    root = put(f"small/{TRAIN}", f"large/{TRAIN}")
    (root / "large").rename(tmp_path / "outside")
    (root / "large").symlink_to(tmp_path / "outside")
    with pytest.raises(DatasetError, match="no configuration 'large'"):
        open_at(root, "large")
