"""Image sizes and model arguments as people write them."""

from __future__ import annotations

import json

import pytest

from autoslim.config import JobSpec, Placement, SpecError, read_mapping
from autoslim.config.pairs import parse_pairs
from autoslim.config.schema import job_schema
from autoslim.errors import RequestError

LEAST = {"model": "deit_tiny_patch16_224", "data": "digits", "flops": ["50%"]}


@pytest.mark.parametrize(
    ("given", "held", "sides"),
    [
        (48, 48, (48, 48)),
        ("48", 48, (48, 48)),
        ("48x32", "48x32", (48, 32)),
        ("32X48", "32x48", (32, 48)),
        ("64x64", 64, (64, 64)),
    ],
)
def test_a_size_is_a_side_or_height_and_width(given, held, sides):
    spec = read_mapping(LEAST | {"image_size": given})
    job = spec.to_job(id="one", placement=Placement(output="/o"))
    assert (spec.image_size, job.model.image_size) == (held, sides)
    assert JobSpec.of_job(job).image_size == held


@pytest.mark.parametrize("given", [0, -3, "0x32", "48x", "x32", "48*32", "48x32x3", "big", 2.5, True, "1e3"])
def test_other_sizes_are_refused(given):
    with pytest.raises((SpecError, RequestError), match="image_size"):
        read_mapping(LEAST | {"image_size": given})


def test_the_refusal_says_both_forms():
    with pytest.raises(
        (SpecError, RequestError), match=r"image_size is '48\*32'; allowed: .* 1 and more, or HEIGHTxWIDTH such as 48x32"
    ):
        read_mapping(LEAST | {"image_size": "48*32"})


def test_the_schema_has_both_forms():
    kinds = [kind.get("type") for kind in job_schema()["properties"]["image_size"]["anyOf"]]
    assert kinds == ["integer", "string", "null"]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("img_size=(48,32)", {"img_size": (48, 32)}),
        ("depth=6, img_size=(48, 32),embed_dim=48", {"depth": 6, "img_size": (48, 32), "embed_dim": 48}),
        ("a=[1,2],b={'c':3,'d':4},e=x", {"a": [1, 2], "b": {"c": 3, "d": 4}, "e": "x"}),
        ("a=(1,(2,3)),b=2,", {"a": (1, (2, 3)), "b": 2}),
        ("a=),b=2", {"a": ")", "b": 2}),
    ],
)
def test_commas_in_brackets_belong_to_the_value(text, pairs):
    assert parse_pairs(text) == pairs
    assert json.dumps(pairs)


def test_what_is_no_pair_is_named():
    with pytest.raises(RequestError, match=r"'32\)' is not of the form name=value"):
        parse_pairs("size=48),32)")
