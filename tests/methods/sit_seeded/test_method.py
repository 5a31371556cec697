"""SiT with tokens that the image's own patches seed."""

from __future__ import annotations

import pytest
from helpers.tiny import make_dense, method_tests

from autoslim.core.plan import Plan
from autoslim.errors import SpaceError
from autoslim.methods import METHODS

NAME, PAPERS = "sit_seeded", "sit"
METHOD = METHODS[NAME]

# For the contract suite.

KEEP_ALL = method_tests(PAPERS).KEEP_ALL


def check_training_form_is_pruned_form(model: str, variant: str = "") -> None:
    method_tests(PAPERS).check_training_form_is_pruned_form(model, method=NAME)


def test_it_is_the_papers_method_with_an_option_of_ours():
    shape = make_dense("vit").shape
    own, papers = METHOD.repair(shape, {}), METHODS[PAPERS].repair(shape, {"slots": "image", "token_error": "relative"})
    assert own == papers
    plans = [METHODS[name].expect(shape, Plan.dense(shape), own) for name in (NAME, PAPERS)]
    assert plans[0] == plans[1]


def test_without_the_option_it_would_be_the_papers():
    """That has a name of its own, and a front that says `sit_seeded` says what is in it."""
    with pytest.raises(SpaceError, match="slots is 'learned'; allowed: 'image'"):
        METHOD.repair(make_dense("vit").shape, {"slots": "learned"})
    assert METHODS[PAPERS].ranges["slots"].default == "learned"


def test_it_has_no_start_to_choose():
    assert "start" not in METHOD.ranges
    shape = make_dense("vit").shape
    complete = METHOD.repair(shape, {})
    # A complete recipe may be older than a knob of the paper's method, which this one does not have.
    assert METHOD.repair(shape, complete) == complete
