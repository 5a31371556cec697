from __future__ import annotations

import itertools
from collections import Counter

import pytest

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Step
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.methods.solver import evaluate
from autoslim.search import CostExtreme, Feasibility, feasibility, load_space, parse_space
from autoslim.search.space.space import Sample

NARROW = "methods: {tokens: {cuts: 2, layer_1: {low: 0.3, high: 0.6}, layer_2: {low: 0.3, high: 0.6}, gone_1: {high: 0.5}}}"


@pytest.mark.parametrize("text", ["methods: {tokens: , width: }", NARROW])
def test_the_extremes_are_those_that_trying_everything_finds(methods: dict[str, Method], shape: ViTShape, text: str) -> None:
    space = parse_space(text, source="s.yaml", methods=methods)
    dense = Plan.dense(shape)
    tokens = methods["tokens"]
    found = []
    corners = itertools.product((1, 2), range(1, 8), range(1, 8), (0.0, 0.5, 0.9), (0.0, 0.5, 0.9))
    for cuts, layer_1, layer_2, gone_1, gone_2 in corners:
        knobs = {"cuts": cuts, "layer_1": layer_1, "layer_2": layer_2, "gone_1": gone_1, "gone_2": gone_2}
        solved = evaluate(tokens, shape, dense, knobs if cuts == 2 else {k: v for k, v in knobs.items() if not k.endswith("_2")})
        if space.contains(Sample(steps=(Step(method="tokens", knobs=solved.knobs),), training={}), shape):
            found.append(solved.flops)
    extremes = feasibility(space, shape, dense, methods)["tokens"]
    assert extremes.cheapest is not None
    assert extremes.costliest is not None
    assert (extremes.cheapest.flops, extremes.costliest.flops) == (min(found), max(found))
    assert evaluate(tokens, shape, dense, extremes.cheapest.knobs).flops == extremes.cheapest.flops


def test_there_is_no_extreme_where_every_recipe_leaves_the_space(methods: dict[str, Method], shape: ViTShape) -> None:
    space = parse_space("methods: {tokens: {cuts: 2, layer_1: 0.5, layer_2: 0.5}}", source="s.yaml", methods=methods)
    assert feasibility(space, shape, Plan.dense(shape), methods)["tokens"].cheapest is None


@pytest.mark.slow
@pytest.mark.parametrize("depth", [12, 24])
def test_the_extremes_of_a_deep_model_are_found_with_few_evaluations(shape: ViTShape, depth: int) -> None:
    """The default space has far more corners than the evaluations that are made of each method, which grow with the depth at most."""
    deep = shape.replace(
        image_size=(224, 224), grid=(14, 14), patch_inputs=768, depth=depth, dim=384, heads=6, head_width=64, hidden=1536
    )
    evaluations: Counter[str] = Counter()
    methods = {name: counting(method, evaluations) for name, method in METHODS.items()}
    found = feasibility(load_space("default"), deep, Plan.dense(deep), methods)
    assert all(evaluations[name] <= 80 * depth for name in METHODS)
    dense = predict(deep, Plan.dense(deep)).total
    for name in METHODS:
        cheapest = found[name].cheapest
        assert cheapest is not None
        assert cheapest.flops < 0.2 * dense


def counting(method: Method, evaluations: Counter[str]) -> Method:
    """The method itself, with its plans counted."""

    class Counting(type(method)):  # type: ignore[misc]
        def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
            evaluations[self.name] += 1
            return super().expect(shape, plan, knobs)

    return Counting()


@pytest.mark.parametrize(
    ("flops", "limits", "reached"),
    [
        (100, CostLimits(), True),
        (99, CostLimits(), False),
        (100, CostLimits(params=10), True),
        (100, CostLimits(params=9), False),
        (100, CostLimits(latency_ms=2.0), True),
        (100, CostLimits(latency_ms=1.9), False),
    ],
)
def test_a_method_reaches_a_budget_within_every_limit(flops: int, limits: CostLimits, reached: bool) -> None:
    extreme = CostExtreme(flops=100, knobs={})
    assert Feasibility(cheapest=extreme, costliest=extreme, min_params=10, min_latency_ms=2.0).reaches(flops, limits) is reached
    assert Feasibility(cheapest=extreme, costliest=extreme).reaches(flops, limits) is (flops == 100)
    assert not Feasibility(cheapest=None, costliest=None).reaches(flops, limits)
