"""Budgets as people write them."""

from __future__ import annotations

import jsonschema
import pytest

from autoslim.config.schema import job_schema
from autoslim.core.budget import Budget
from autoslim.errors import RequestError

WRITTEN = {
    "2.3G": 2_300_000_000,
    "2.3 g": 2_300_000_000,
    "2.3 GFLOPs": 2_300_000_000,
    "2.3GFLOP": 2_300_000_000,
    "2.3 GMACs": 2_300_000_000,
    "2300M": 2_300_000_000,
    "1e9": 1_000_000_000,
    "1.3E+9": 1_300_000_000,
    "1300000": 1_300_000,
    "850 M": 850_000_000,
    "4.1G": 4_100_000_000,
}
REFUSED = {
    "0.5": "budget '0.5': FLOPs must be above zero; a share is written as 50%",
    ".25": "budget '.25': FLOPs must be above zero; a share is written as 25%",
    "50": "budget '50': 50%? As multiply-accumulates it is less than any model has",
    "37.5": "budget '37.5': 37.5%? As",
    "0": "budget '0': FLOPs must be above zero",
    "0G": "budget '0G': FLOPs must be above zero",
    "0%": "a share must be above 0 %",
    "1e999": "is not valid",
    "2,3G": "is not valid",
    "2.3 GB": "is not valid",
    "1e-9": "is not valid",
    "-2G": "is not valid",
}


def schema_takes(text: str) -> bool:
    job = {"model": "vit_tiny_patch16_224", "data": "digits", "flops": [text]}
    return jsonschema.Draft202012Validator(job_schema()).is_valid(job)


@pytest.mark.parametrize("text", WRITTEN)
def test_a_number_is_read_as_people_write_it(text: str):
    assert Budget.parse(text).flops == WRITTEN[text]
    assert schema_takes(text)


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_budget_is_refused(text: str):
    with pytest.raises(RequestError) as refusal:
        Budget.parse(text)
    assert REFUSED[text] in str(refusal.value)
    # The pattern knows no amounts.
    assert schema_takes(text) is ("is not valid" not in REFUSED[text])
