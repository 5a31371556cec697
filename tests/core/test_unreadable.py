"""How many images may be unreadable: a share of a split, or a number."""

from __future__ import annotations

import pytest

from autoslim.core.job import DatasetSpec
from autoslim.core.unreadable import allowed_count, describe_allowed, parse_allowed
from autoslim.errors import RequestError


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ("0.05", 0.05),
        ("5%", 0.05),
        (" 2.5 % ", 0.025),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("100%", 1.0),
        ("1.0", 1.0),
        (1.0, 1.0),
        (0.0, 0.0),
        ("1", 1),
        ("33", 33),
        (0, 0),
        (3, 3),
    ],
)
def test_the_form_says_which_it_is(given, held):
    found = parse_allowed(given)
    assert (type(found), found) == (type(held), held)


@pytest.mark.parametrize(
    "given", [-1, "-1", -0.1, 1.5, "1.5", "101%", "-1%", "many", "", "%", "nan", "inf", float("nan"), "3 images"]
)
def test_what_is_neither_is_refused_with_both_forms(given):
    with pytest.raises(
        RequestError, match=r"allowed: a share from 0 to 1, such as 0\.05 or 5%, or a whole number of images, such as 3"
    ):
        parse_allowed(given)


@pytest.mark.parametrize(
    ("allowed", "images", "count", "words"),
    [
        (0.01, 33, 0, "0, a share of 0.01"),
        (0.07, 100, 7, "7, a share of 0.07"),
        (1.0, 33, 33, "33, a share of 1"),
        (1, 33, 1, "1"),
        (40, 33, 40, "40"),
    ],
)
def test_a_share_is_rounded_down(allowed, images, count, words):
    assert allowed_count(allowed, images) == count
    assert describe_allowed(allowed, images) == words


def test_a_data_set_of_an_earlier_version_is_read_and_written_as_it_was():
    earlier = {"source": "x", "validation_share": 0.1, "unreadable_share": 0.02, "decoded_limit": 7, "train_limit": None}
    spec = DatasetSpec.from_dict(earlier)
    assert spec.unreadable == 0.02
    assert spec.to_dict() == earlier
    assert DatasetSpec.from_dict(DatasetSpec(source="x", unreadable_images=3).to_dict()).unreadable == 3
