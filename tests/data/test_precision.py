"""How well the validation images tell models apart is said with the data."""

from __future__ import annotations

import dataclasses

import pytest

from autoslim.core.interval import widest_half, wilson
from autoslim.core.job import DatasetSpec
from autoslim.data import prepare_dataset


@pytest.fixture
def report(write_parquet, tmp_path):
    source = write_parquet("one.parquet", [0, 1] * 60)
    return prepare_dataset(DatasetSpec(source=str(source)), tmp_path / "cache", seed=0).report


def test_a_small_split_is_said_with_what_tells_more(report):
    assert report.lines()[-1] == (
        "11 validation images choose the models: an accuracy on them is known to about ±30 points (95 %), and models that are closer are "
        "not told apart; a larger --validation-share tells more"
    )


def test_a_split_of_the_users_own_has_no_share(report):
    given = dataclasses.replace(report, validation=dataclasses.replace(report.validation, drawn_from=None))
    assert given.lines()[-1].endswith("not told apart")


def test_a_split_that_tells_a_point_needs_no_word(report):
    for images, said in ((9000, True), (10_000, False)):
        large = dataclasses.replace(report, validation=dataclasses.replace(report.validation, images=images))
        assert any("choose the models" in line for line in large.lines()) == said


def test_thousands_are_told_apart(report):
    large = dataclasses.replace(report, train=dataclasses.replace(report.train, images=48_000))
    assert large.lines()[0].startswith("48,000 train, 11 validation (drawn from train)")


@pytest.mark.parametrize("images", [100, 1000, 50_000])
def test_the_half_is_that_of_the_widest_interval(images):
    widest = max((wilson(share / 20, images) for share in range(1, 20)), key=lambda found: found.high - found.low)
    assert widest_half(images) == pytest.approx((widest.high - widest.low) / 2, rel=0.02)
