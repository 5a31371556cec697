"""Blocks that a recipe leaves to the defaults: rounded alike at every depth, and as far forward as the budget needs."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from helpers.tiny import share_of_dense

from autoslim.core.plan import Plan
from autoslim.core.recipe import Step
from autoslim.core.shape import ViTShape
from autoslim.errors import InfeasibleError, SpaceError
from autoslim.methods import METHODS, solve
from autoslim.methods.chain import chain_targets, solve_chain
from autoslim.methods.knob import Knob, layer_index
from autoslim.models import read_shape

WITH_LAYERS = [name for name, method in METHODS.items() if any(knob.kind == "layer" for knob in method.ranges.values())]


@functools.cache
def shape_of(depth: int) -> ViTShape:
    with torch.device("meta"):
        return read_shape(timm.create_model("deit_small_patch16_224", depth=depth))


def blocks(knobs: dict) -> list[int]:
    return sorted(value for name, value in knobs.items() if "_layer_" in name)


@pytest.mark.parametrize(
    ("depth", "quarters"), [(6, [2, 3, 5]), (10, [3, 5, 8]), (12, [3, 6, 9]), (14, [4, 7, 11]), (18, [5, 9, 14])]
)
def test_half_a_block_rounds_the_same_way_at_every_depth(depth: int, quarters: list[int]):
    assert [layer_index(share, depth) for share in (0.25, 0.5, 0.75)] == quarters


@pytest.mark.parametrize("depth", [3, 9, 15, 21])
def test_half_a_block_rounds_up_where_its_share_is_no_exact_float(depth: int):
    assert layer_index(1 / 6, depth) == depth // 6 + 1


def test_there_is_always_a_block_in_front_and_one_behind():
    assert [layer_index(share, 4) for share in (0.0, 0.1, 0.99, 1.0)] == [1, 1, 3, 3]


@pytest.mark.parametrize("depth", [6, 12])
@pytest.mark.parametrize("method", WITH_LAYERS)
def test_defaults_reach_low_budgets(method: str, depth: int):
    """A step that starts at a quarter of the depth cannot go below a quarter of the FLOPs, and hardly to a third."""
    shape = shape_of(depth)
    for share in (0.5, 0.35, 0.3, 0.25):
        budget = share_of_dense(shape, share)
        assert 0.99 * budget <= solve(METHODS[method], shape, Plan.dense(shape), {}, budget).flops <= budget


@pytest.mark.parametrize("depth", [6, 12])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in WITH_LAYERS])
def test_defaults_without_blocks_reach_low_budgets(method: str, depth: int):
    shape = shape_of(depth)
    for share in (0.35, 0.25, 0.15):
        budget = share_of_dense(shape, share)
        # Of widths the same whole number everywhere is solved for; pruning fills the budget unit by unit.
        assert 0.95 * budget <= solve(METHODS[method], shape, Plan.dense(shape), {}, budget).flops <= budget


@pytest.mark.parametrize("method", WITH_LAYERS)
def test_the_default_blocks_reach_15_percent_of_a_deep_model_and_say_so_where_the_first_block_is_more(method: str):
    """What prunes in front of a block computes the first one whole, a sixth of a model of 6 blocks."""
    deep, shallow = shape_of(12), shape_of(6)
    budget = share_of_dense(deep, 0.15)
    assert 0.98 * budget <= solve(METHODS[method], deep, Plan.dense(deep), {}, budget).flops <= budget
    with pytest.raises(InfeasibleError, match="cheapest form"):
        solve(METHODS[method], shallow, Plan.dense(shallow), {}, share_of_dense(shallow, 0.15))


@pytest.mark.parametrize("method", WITH_LAYERS)
def test_the_default_blocks_stay_where_the_budget_is_within_their_reach(method: str):
    shape = shape_of(12)
    defaults = set(blocks(METHODS[method].repair(shape, {})))
    kept = solve(METHODS[method], shape, Plan.dense(shape), {}, share_of_dense(shape, 0.6)).knobs
    assert set(blocks(kept)) <= defaults
    low = solve(METHODS[method], shape, Plan.dense(shape), {}, share_of_dense(shape, 0.28)).knobs
    assert min(blocks(low)) < min(defaults)


@pytest.mark.parametrize("method", WITH_LAYERS)
def test_blocks_that_a_recipe_names_stay(method: str):
    shape = shape_of(12)
    first = next(name for name, knob in METHODS[method].ranges.items() if knob.kind == "layer")
    with pytest.raises(InfeasibleError, match="cheapest form"):
        named = {name: 11 for name, knob in METHODS[method].ranges.items() if knob.kind == "layer"}
        solve(METHODS[method], shape, Plan.dense(shape), named, share_of_dense(shape, 0.3))
    found = solve(METHODS[method], shape, Plan.dense(shape), {first: 2}, share_of_dense(shape, 0.3)).knobs
    assert 2 in blocks(found)


@pytest.mark.parametrize("method", WITH_LAYERS)
def test_the_last_step_of_a_chain_comes_forward_too(method: str):
    shape = shape_of(12)
    dense = Plan.dense(shape)
    start, budget = share_of_dense(shape, 1.0), share_of_dense(shape, 0.26)
    steps = (Step(method="width", knobs={}), Step(method=method, knobs={}))
    solved = solve_chain(METHODS, shape, dense, steps, chain_targets(start, budget, 0.1, 2))
    assert 0.98 * budget <= solved.flops <= budget


def test_a_recipe_may_set_more_than_a_search_draws():
    knob = Knob(kind="float", help="a weight", default=1.0, low=0.1, high=4.0, log=True, allowed=(0.0, 8.0))
    assert knob.widest == (0.0, 8.0)
    for value in (0.0, 0.05, 8.0):
        knob.check(value, "weight", depth=4)
    with pytest.raises(SpaceError, match="from 0 to 8"):
        knob.check(8.1, "weight", depth=4)
