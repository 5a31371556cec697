"""Several dense models in a job: their labels, and that a job, a recipe and a base with one are the JSON that they always were."""

from __future__ import annotations

import pytest
from helpers.sample_search import DENSE, make_job, make_recipe

from autoslim.core.budget import Budget
from autoslim.core.job import ModelSpec, SearchJob, repeated_model
from autoslim.core.recipe import Recipe
from autoslim.core.result import BaseFacts
from autoslim.errors import BudgetError


def with_models(*names: str, **changes: object) -> SearchJob:
    first, *others = (ModelSpec(name=name, weights="scratch") for name in names)
    return make_job(model=first, more_models=tuple(others), **changes)


def test_the_only_model_has_no_label_and_others_have_their_names() -> None:
    assert list(make_job().starts) == [""]
    assert list(with_models("vit_tiny", "deit_tiny").starts) == ["vit_tiny", "deit_tiny"]


def test_equal_names_are_numbered_and_a_folder_goes_by_its_own_name() -> None:
    labels = list(with_models("/a/vit", "vit", "/b/vit", "deit").starts)
    assert labels == ["vit", "vit@2", "vit@3", "deit"]


def test_a_model_is_repeated_only_with_the_same_weights() -> None:
    small, other = ModelSpec(name="vit"), ModelSpec(name="vit", weights="/w.pth")
    assert repeated_model((small, other)) is None
    assert repeated_model((small, other, small)) == 2


def test_what_one_model_does_not_need_is_no_part_of_the_json() -> None:
    assert {"more_models", "teacher"} & set(make_job().to_dict()) == set()
    assert "model" not in make_recipe(0).to_dict()
    assert {"starts", "teacher"} & set(DENSE.to_dict()) == set()
    several, recipe = with_models("a", "b", teacher=ModelSpec(name="c")), make_recipe(0).replace(model="b")
    facts = DENSE.replace(starts={"a": DENSE, "b": DENSE}, teacher={"a": "b"})
    assert SearchJob.from_json(several.to_json()) == several
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert BaseFacts.from_json(facts.to_json()) == facts


def test_a_recipe_of_one_model_has_the_key_that_it_always_had_and_each_start_has_its_own() -> None:
    """The key names folders and checkpoints of searches that were started by an earlier version."""
    recipe = make_recipe(3)
    assert recipe.key == "cba7ddcef32430eb"
    assert len({recipe.key, recipe.replace(model="a").key, recipe.replace(model="b").key}) == 3
    assert recipe.title == recipe.method
    assert recipe.replace(model="a").title == f"{recipe.method} of a"


def test_the_first_of_several_models_may_be_within_a_budget() -> None:
    budgets = (Budget.parse("2G"), Budget.parse("50%"))
    with pytest.raises(BudgetError, match="budget 2G: the dense model has 1G"):
        make_job(budgets=budgets).budget_flops(10**9)
    assert with_models("a", "b", budgets=budgets).budget_flops(10**9) == {"2G": 2 * 10**9, "50%": 5 * 10**8}
