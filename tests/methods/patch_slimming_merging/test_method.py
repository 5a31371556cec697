"""Patch Slimming whose patches merge."""

from __future__ import annotations

from helpers.tiny import method_tests

NAME, PAPERS = "patch_slimming_merging", "patch_slimming"

# For the contract suite.

KEEP_ALL = method_tests(PAPERS).KEEP_ALL


def check_training_form_is_pruned_form(model: str, variant: str = "") -> None:
    method_tests(PAPERS).check_training_form_is_pruned_form(model, method=NAME)
