"""Methods that are a paper's with an option of ours, under a name of our own."""

from __future__ import annotations

import pytest
from helpers.tiny import make_dense

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.errors import SpaceError, UnsupportedModelError
from autoslim.methods import METHODS, WITH_AN_OPTION

OPTIONS: dict[str, tuple[str, Knobs]] = {
    "life_regression_merging": ("life_regression", {"dead": "merge"}),
    "patch_slimming_merging": ("patch_slimming", {"dead": "merge"}),
    "sit_seeded": ("sit", {"slots": "image", "token_error": "relative"}),
}
"""The paper's method, and the option that the name says first, with the defaults that go with it."""


def test_every_method_with_an_option_is_tested() -> None:
    assert set(OPTIONS) == set(WITH_AN_OPTION)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_the_papers_method_with_an_option_of_ours(name: str) -> None:
    papers, options = OPTIONS[name]
    shape = make_dense("vit").shape
    own = METHODS[name].repair(shape, {})
    assert own == METHODS[papers].repair(shape, options)
    plans = [METHODS[each].expect(shape, Plan.dense(shape), own) for each in (name, papers)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("name", OPTIONS)
def test_without_the_option_it_would_be_the_papers(name: str) -> None:
    """That has a name of its own, and a front that says the name of ours says what is in it."""
    papers, options = OPTIONS[name]
    knob, value = next(iter(options.items()))
    published = METHODS[papers].ranges[knob].default
    assert published != value
    with pytest.raises(SpaceError, match=f"{knob} is '{published}'; allowed: '{value}'"):
        METHODS[name].repair(make_dense("vit").shape, {knob: published})


@pytest.mark.parametrize("name", [name for name, (_, options) in OPTIONS.items() if "dead" in options])
def test_a_head_that_cannot_weight_merged_patches_is_refused(name: str) -> None:
    shape = make_dense("vit").shape.replace(pool="avgmax")
    METHODS[OPTIONS[name][0]].check(shape)
    with pytest.raises(UnsupportedModelError, match=f"{name}: merged tokens need pooling"):
        METHODS[name].check(shape)
