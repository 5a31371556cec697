"""Limits as they are written, and as they are held against a plan."""

from __future__ import annotations

import pytest
from helpers.shapes import SHAPE

from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits, budget_of_limits, parse_latency, parse_params, request_flags
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.run_folder import RunFolder
from autoslim.errors import BudgetError, RequestError
from autoslim.methods import Constraints, check_not_trivial


@pytest.mark.parametrize(
    ("text", "params"),
    [("12M", 12_000_000), (" 4.1m ", 4_100_000), ("850K", 850_000), ("1300000", 1_300_000), (".5B", 500_000_000)],
)
def test_parameters_are_read(text: str, params: int):
    assert parse_params(text) == params


@pytest.mark.parametrize("text", ["", "12 Mio", "-3M", "50%", "0", "0M", "1e6", "9" * 40, "12M params"])
def test_parameters_that_are_none_are_refused_with_what_is_allowed(text: str):
    with pytest.raises(RequestError, match=r"^is .*; allowed:"):
        parse_params(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [("5ms@1", (5.0, 1)), ("0.8s@8", (800.0, 8)), ("5ms", (5.0, 1)), ("350 us @ 2", (0.35, 2)), ("1S@64", (1000.0, 64))],
)
def test_a_latency_is_read(text: str, read: tuple[float, int]):
    assert parse_latency(text) == pytest.approx(read)


@pytest.mark.parametrize("text", ["", "5", "5ms@", "5ms@0", "0ms@1", "-5ms", "5ms@1.5", "5m@1", "5ms@99999", "5ms@1@2", "fast"])
def test_a_latency_that_is_none_is_refused_with_what_is_allowed(text: str):
    with pytest.raises(RequestError, match=r"^is .*; allowed:"):
        parse_latency(text)


@pytest.mark.parametrize(
    ("limits", "label", "flags"),
    [
        (CostLimits(), "", ""),
        (CostLimits(params=12_000_000), "12M-params", "--params 12M"),
        (CostLimits(latency_ms=5.0), "5ms@1", "--latency 5ms@1"),
        (CostLimits(latency_ms=0.8, batch=8, params=1_250_000), "0.8ms@8+1.25M-params", "--latency 0.8ms@8 --params 1.25M"),
    ],
)
def test_limits_are_called_by_what_was_asked(limits: CostLimits, label: str, flags: str):
    assert (limits.label, limits.flags, limits.given) == (label, flags, bool(label))
    if limits.latency is not None:
        assert parse_latency(limits.latency) == (limits.latency_ms, limits.batch)


def test_a_label_stays_in_the_folder_of_the_models(tmp_path):
    label = CostLimits(latency_ms=5.0, params=12_000_000).label
    assert RunFolder(tmp_path).model(label).parent == tmp_path / "models"


def test_a_request_says_which_of_its_flags_were_given():
    limits = CostLimits(params=12_000_000)
    assert request_flags(budget_of_limits(limits), limits) == "--params 12M"
    assert request_flags(Budget.parse("50%"), limits) == "--flops 50% --params 12M"
    assert request_flags(Budget.parse("50%"), CostLimits()) == "--flops 50%"


def test_limits_that_the_dense_model_keeps_are_refused_where_nothing_else_is_asked_for():
    shape = SHAPE.replace(params=100_000)
    loose, tight = CostLimits(params=200_000), CostLimits(params=90_000)
    with pytest.raises(BudgetError, match="--params 200K: the dense model is within it already"):
        check_not_trivial(budget_of_limits(loose), Constraints(limits=loose), shape)
    check_not_trivial(Budget.parse("50%"), Constraints(limits=loose), shape)
    check_not_trivial(budget_of_limits(tight), Constraints(limits=tight), shape)
    unmeasured = CostLimits(params=200_000, latency_ms=5.0)
    check_not_trivial(budget_of_limits(unmeasured), Constraints(limits=unmeasured), shape)


def test_a_recipe_without_limits_keeps_the_key_that_it_had_before_there_were_any():
    recipe = Recipe(steps=(Step(method="vit_slim", knobs={"keep": 0.5}),), budget=10**9, training=TrainingSettings(), seed=3)
    assert recipe.key == "6b5e27c1fd9f7d11"
    older = {name: value for name, value in recipe.to_dict().items() if name != "limits"}
    assert Recipe.from_dict(older) == recipe
    assert recipe.replace(limits=CostLimits(params=1)).key != recipe.key
