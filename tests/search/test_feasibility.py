from __future__ import annotations

import itertools
import time

import pytest

from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.methods.solver import evaluate
from autoslim.search import Space, feasibility, load_space, parse_space
from autoslim.search.space.space import Sample

NARROW = "methods: {tokens: {cuts: 2, layer_1: {low: 0.3, high: 0.6}, layer_2: {low: 0.3, high: 0.6}, gone_1: {high: 0.5}}}"


@pytest.mark.parametrize("text", ["methods: {tokens: , width: }", NARROW])
def test_reach_is_what_trying_everything_finds(methods: dict[str, Method], shape: ViTShape, text: str) -> None:
    space = parse_space(text, source="s.yaml", methods=methods)
    dense = Plan.dense(shape)
    tokens = methods["tokens"]
    found = []
    corners = itertools.product((1, 2), range(1, 8), range(1, 8), (0.0, 0.5, 0.9), (0.0, 0.5, 0.9))
    for cuts, layer_1, layer_2, gone_1, gone_2 in corners:
        knobs = {"cuts": cuts, "layer_1": layer_1, "layer_2": layer_2, "gone_1": gone_1, "gone_2": gone_2}
        solved = evaluate(tokens, shape, dense, knobs if cuts == 2 else {k: v for k, v in knobs.items() if not k.endswith("_2")})
        if space.contains(Sample(method="tokens", knobs=solved.knobs, training={}), shape):
            found.append(solved.flops)
    corner = feasibility(space, shape, dense, methods)["tokens"]
    assert corner.cheapest is not None
    assert corner.costliest is not None
    assert (corner.cheapest.flops, corner.costliest.flops) == (min(found), max(found))
    assert evaluate(tokens, shape, dense, corner.cheapest.knobs).flops == corner.cheapest.flops


def test_reach_is_none_where_every_recipe_leaves_the_space(methods: dict[str, Method], shape: ViTShape) -> None:
    space = parse_space("methods: {tokens: {cuts: 2, layer_1: 0.5, layer_2: 0.5}}", source="s.yaml", methods=methods)
    assert feasibility(space, shape, Plan.dense(shape), methods)["tokens"].cheapest is None


def test_reach_of_a_deep_model_takes_less_than_a_second(shape: ViTShape) -> None:
    deit_small = shape.replace(
        image_size=(224, 224),
        grid=(14, 14),
        patch_inputs=768,
        depth=12,
        dim=384,
        heads=6,
        head_width=64,
        hidden=1536,
        classes=1000,
    )
    space: Space = load_space("default")
    started = time.perf_counter()
    corners = feasibility(space, deit_small, Plan.dense(deit_small))
    assert time.perf_counter() - started < 1
    dense = predict(deit_small, Plan.dense(deit_small)).total
    for name in METHODS:
        cheapest = corners[name].cheapest
        assert cheapest is not None
        assert cheapest.flops < 0.2 * dense
