"""SiT with tokens that the image's own patches seed."""

from __future__ import annotations

from helpers.tiny import make_dense, method_tests

from autoslim.methods import METHODS

NAME, PAPERS = "sit_seeded", "sit"
METHOD = METHODS[NAME]

# For the contract suite.

KEEP_ALL = method_tests(PAPERS).KEEP_ALL


def check_training_form_is_pruned_form(model: str, variant: str = "") -> None:
    method_tests(PAPERS).check_training_form_is_pruned_form(model, method=NAME)


def test_it_has_no_start_to_choose():
    assert "start" not in METHOD.ranges
    shape = make_dense("vit").shape
    complete = METHOD.repair(shape, {})
    # A complete recipe may be older than a knob of the paper's method, which this one does not have.
    assert METHOD.repair(shape, complete) == complete
