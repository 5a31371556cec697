"""The number or share of unreadable images as people write it in files and on the command line."""

from __future__ import annotations

import jsonschema
import pytest

from autoslim.config import JobSpec, Placement, SpecError, parse_yaml, read_json, read_mapping
from autoslim.config.schema import job_schema

LEAST = {"model": "deit_tiny_patch16_224", "data": "digits", "flops": ["50%"]}


@pytest.mark.parametrize(
    ("written", "share", "images"),
    [
        ("0.02", 0.02, None),
        ("1.0", 1.0, None),
        ("5%", 0.05, None),
        ("'0.05'", 0.05, None),
        ("3", 0.01, 3),
        ("'3'", 0.01, 3),
        ("0", 0.01, 0),
    ],
)
def test_a_job_file_has_a_share_or_a_number(written, share, images):
    text = f"model: deit_tiny_patch16_224\ndata: digits\nflops: 50%\nunreadable_share: {written}\n"
    spec = parse_yaml(text, source="job.yaml")
    job = spec.to_job(id="one", placement=Placement(output="/o"))
    assert (job.dataset.unreadable_share, job.dataset.unreadable_images) == (share, images)
    again = JobSpec.of_job(job).unreadable_share
    assert (type(again), again) == (type(spec.unreadable_share), spec.unreadable_share)
    assert read_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("given", [-1, 1.5, "101%", "many", "", True, [3], {}])
def test_others_are_refused(given):
    with pytest.raises(SpecError, match="unreadable_share"):
        read_mapping(LEAST | {"unreadable_share": given})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(LEAST | {"unreadable_share": given}, job_schema())


@pytest.mark.parametrize("given", [0, 3, 0.02, 1.0, "3", "0.05", ".05", "1.0", "5%", "2.5 %", "100%"])
def test_the_schema_takes_what_is_read(given):
    jsonschema.validate(LEAST | {"unreadable_share": given}, job_schema())
    read_mapping(LEAST | {"unreadable_share": given})
