"""Life regression whose patches merge."""

from __future__ import annotations

from helpers.tiny import method_tests

NAME, PAPERS = "life_regression_merging", "life_regression"

# For the contract suite.

KEEP_ALL = method_tests(PAPERS).KEEP_ALL


def check_training_form_is_pruned_form(model: str, variant: str = "") -> None:
    method_tests(PAPERS).check_the_longest_lived_are_joined(NAME, model)
