"""A search opens every method, at every budget that it can reach, with a recipe that is known and not drawn."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import pytest
import timm
import torch
from helpers.played_search import Make
from helpers.tiny import share_of_dense

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, TrainingSettings
from autoslim.core.result import Origin
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.methods import METHODS, Constraints
from autoslim.methods.base import Method
from autoslim.methods.knob import Knob, Ranges
from autoslim.models import read_shape
from autoslim.search import Proposal, Space, load_space, parse_space
from autoslim.search.budget_allocation import Assignment
from autoslim.search.feasibility import Feasibility, feasibility
from autoslim.search.recipe_builder import RecipeBuilder
from autoslim.search.samplers.best_known import BestKnown

SHARES = (0.7, 0.5, 0.35, 0.25, 0.15)
FIRST_BLOCK = {name for name, method in METHODS.items() if any(knob.kind == "layer" for knob in method.ranges.values())}
"""They drop patches in front of a block, so that the first one is computed whole: a sixth of a model of 6 blocks."""


@functools.cache
def shape_of(depth: int) -> ViTShape:
    with torch.device("meta"):
        return read_shape(timm.create_model("deit_small_patch16_224", depth=depth))


def space_of(method: str) -> Space:
    """What the space `default` has of the method alone."""
    whole = load_space("default")
    return whole.replace(methods={method: whole.methods[method]}, chains=((method,),))


@functools.cache
def extremes(method: str, depth: int) -> dict[str, Feasibility]:
    shape = shape_of(depth)
    return feasibility(space_of(method), shape, Plan.dense(shape), METHODS, {method: Constraints()})


def opening(method: str, depth: int, share: float, known: dict[str, Feasibility]) -> tuple[list[Proposal], int]:
    """Without trials of other models, and the budget."""
    shape = shape_of(depth)
    budget = share_of_dense(shape, share)
    builder = RecipeBuilder(
        space=space_of(method),
        shape=shape,
        methods=METHODS,
        budgets={"low": budget},
        training=TrainingSettings(),
        seed=0,
    )
    assignment = Assignment(target="low", origin=Origin.SAMPLER, methods=(method,), best_known=True)
    return BestKnown(builder, (), known).proposals(0, assignment, frozenset()), budget


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("depth", [6, 12])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_opened_at_every_budget_that_it_reaches(method: str, depth: int, share: float):
    found, budget = opening(method, depth, share, {})
    if (depth, share) == (6, 0.15) and method in FIRST_BLOCK:
        assert found == []
        return
    (proposal,) = found
    assert proposal.flops is not None
    assert 0.95 * budget <= proposal.flops <= budget
    # The defaults, except for what the solver moves.
    (step,) = proposal.recipe.steps
    for name, knob in space_of(method).methods[method].items():
        if (
            name in step.knobs
            and knob.searched
            and not knob.cost_sign
            and knob.kind != "layer"
            and name not in ("stages", "drops")
        ):
            assert step.knobs[name] == knob.default, name


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize("method", METHODS)
def test_what_the_search_calls_reachable_is_opened(method: str):
    for depth in (6, 12):
        reachable = extremes(method, depth)
        cheapest = reachable[method].cheapest
        assert cheapest is not None
        least = cheapest.flops / share_of_dense(shape_of(depth), 1.0)
        for share in (*(share for share in SHARES if share >= least), least * 1.001):
            found, budget = opening(method, depth, share, reachable)
            assert found, (depth, share)
            assert all(proposal.flops is not None and proposal.flops <= budget for proposal in found)


@pytest.mark.parametrize("share", [0.8, 0.45, 0.3])
def test_the_blocks_that_are_left_to_the_defaults_stay_within_the_space(share: float, methods: dict[str, Method], make: Make):
    text = "methods: {tokens: {cuts: 2, layer_1: {low: 0.1, high: 0.4}, layer_2: {low: 0.5, high: 0.9}}}"
    space = parse_space(text, source="narrow.yaml", methods=methods)
    proposer = dataclasses.replace(make((share,), space=space, sampler="forest"), prior=())
    proposal = proposer.propose(0, [])
    assert (proposal.origin, proposal.infeasible) == (Origin.SAMPLER, None)
    (step,) = proposal.recipe.steps
    assert (step.knobs["rate"], step.knobs["calls"]) == (1.0, 4)
    assert 1 <= step.knobs["layer_1"] <= 3
    assert 4 <= step.knobs["layer_2"] <= 7


def test_where_no_default_reaches_the_budget_the_cheapest_recipe_is_solved_onto_it(
    methods: dict[str, Method], shape: ViTShape, dense: int, make: Make
):
    """`half` is off by default, and without it the budget is out of reach."""
    toy: Any = type(methods["width"])

    class Halved(toy):  # type: ignore[misc]
        name: ClassVar[str] = "halved"
        ranges: ClassVar[Ranges] = {**toy.ranges, "half": Knob(kind="choice", help="", default=False, choices=(False, True))}

        def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
            whole = super().expect(shape, plan, knobs)
            factor = 2 if knobs["half"] else 1
            return whole.replace(blocks=tuple(block.replace(hidden=block.hidden // factor) for block in whole.blocks))

    own: dict[str, Method] = {"halved": Halved()}
    space = parse_space("methods: {halved: }", source="halved.yaml", methods=own)
    proposer = dataclasses.replace(make((0.55,), sampler="forest"), space=space, methods=own, prior=())
    (proposal,) = proposer._best_known[""].proposals(0, proposer._allocator.assign(0), frozenset())
    assert proposal.infeasible is None
    assert proposal.plan is not None
    assert proposal.flops == predict(shape, proposal.plan).total <= 0.55 * dense
    assert proposal.recipe.steps[0].knobs["half"] is True
