"""The dense starts of `benchmarks/dense_start.py`: models of the families, small enough for minutes on one core."""

from __future__ import annotations

import pytest
from dense_start import FAMILIES, start_model

from autoslim.core.plan import Plan
from autoslim.cost import predict
from autoslim.methods import METHODS, refusals
from autoslim.models import create_dense


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_any_size_have_as_many_patches_and_widths_can_be_slimmed(family: str):
    shape = create_dense(start_model(family, 64), classes=10).shape
    assert shape.image_size == (64, 64)
    assert shape.patches == (16 * 16 if family == "swin" else 8 * 8)
    taken = set(METHODS) - set(refusals(shape))
    assert taken == {"vit_slim", "width"} if family == "swin" else {"width", "patch_slimming"} <= taken


def test_the_families_cost_about_a_tenth_of_the_vit():
    costs = {}
    for family in FAMILIES:
        shape = create_dense(start_model(family, 16 if family == "lvvit" else 32), classes=10).shape
        costs[family] = predict(shape, Plan.dense(shape)).total
    whole = costs.pop("vit")
    assert all(0.07 < cost / whole < 0.13 for cost in costs.values()), costs
