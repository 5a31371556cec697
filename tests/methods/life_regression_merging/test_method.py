"""Life regression whose patches merge."""

from __future__ import annotations

import pytest
from helpers.tiny import make_dense, method_tests

from autoslim.core.plan import Plan
from autoslim.errors import SpaceError, UnsupportedModelError
from autoslim.methods import METHODS

NAME, PAPERS = "life_regression_merging", "life_regression"
METHOD = METHODS[NAME]

# For the contract suite.

KEEP_ALL = method_tests(PAPERS).KEEP_ALL


def check_training_form_is_pruned_form(model: str, variant: str = "") -> None:
    method_tests(PAPERS).check_the_longest_lived_are_joined(NAME, model)


def test_it_is_the_papers_method_with_an_option_of_ours():
    shape = make_dense("vit").shape
    own, papers = METHOD.repair(shape, {}), METHODS[PAPERS].repair(shape, {"dead": "merge"})
    assert own == papers
    plans = [METHODS[name].expect(shape, Plan.dense(shape), own) for name in (NAME, PAPERS)]
    assert plans[0] == plans[1]


def test_without_the_option_it_would_be_the_papers():
    """That has a name of its own, and a front that says `life_regression_merging` says what is in it."""
    with pytest.raises(SpaceError, match="dead is 'drop'; allowed: 'merge'"):
        METHOD.repair(make_dense("vit").shape, {"dead": "drop"})
    assert METHODS[PAPERS].ranges["dead"].default == "drop"


def test_a_head_that_cannot_weight_merged_patches_is_refused():
    shape = make_dense("vit").shape.replace(pool="avgmax")
    METHODS[PAPERS].check(shape)
    with pytest.raises(UnsupportedModelError, match=f"{NAME}: merged tokens need pooling"):
        METHOD.check(shape)
