"""The closed form, fvcore and torch count the same, on dense models and on whatever the methods cut."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from helpers.examples import examples
from helpers.tiny import KINDS, MODELS, make_dense
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.cost import COUNTERS_AGREE_WITHIN, count_flops, count_flops_torch, predict
from autoslim.errors import InfeasibleError, UnsupportedModelError
from autoslim.methods import METHODS, evaluate, solve
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.models import read_shape

# fvcore's own numbers, without fused attention (the model cards round them to 1.3, 4.6 and 17.6 G).
DEIT = {
    "deit_tiny_patch16_224": 1_258_411_200,
    "deit_small_patch16_224": 4_608_338_304,
    "deit_base_patch16_224": 17_582_740_224,
}

DENSE = {
    **{name: (name, {}) for name in KINDS},
    "pre-norm": ("vit", {"pre_norm": True}),
    "qk-norm": ("deit", {"qk_norm": True}),
    "no biases": ("deit", {"qkv_bias": False}),
    "no embedded class": ("registers", {"no_embed_class": True}),
    "layer scale": ("deit", {"init_values": 1e-2}),
    "mean and maximum": ("average", {"global_pool": "avgmax"}),
    "not square": ("deit", {"img_size": (32, 48)}),
    "narrow MLP": ("deit", {"mlp_ratio": 2.0}),
}


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", DEIT)
def test_deit_has_its_flops_with_and_without_fused_attention(name: str, fused: bool):
    with torch.device("meta"):
        model = timm.create_model(name)
    # fvcore traces, which the meta device cannot; what the weights are does not matter.
    model.to_empty(device="cpu")
    for block in model.blocks:
        block.attn.fused_attn = fused
    shape = read_shape(model)
    assert count_flops(model, 224) == predict(shape, Plan.dense(shape)).total == DEIT[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", DEIT)
def test_torch_counts_the_matrix_products_of_deit(name: str):
    with torch.device("meta"):
        model = timm.create_model(name)
    shape = read_shape(model)
    flops = predict(shape, Plan.dense(shape))
    counted = count_flops_torch(model, 224)
    assert abs(counted - flops.matmuls) <= COUNTERS_AGREE_WITHIN * flops.matmuls
    assert abs(counted - flops.total) <= COUNTERS_AGREE_WITHIN * flops.total


@pytest.mark.parametrize("name", DENSE)
def test_prediction_for_a_dense_model_is_what_fvcore_counts(name: str):
    base, args = DENSE[name]
    dense = make_dense(base, **args)
    shape = dense.shape
    flops = predict(shape, Plan.dense(shape))
    assert count_flops(dense.module, shape.image_size) == flops.total
    assert abs(count_flops_torch(dense.module, shape.image_size) - flops.matmuls) <= COUNTERS_AGREE_WITHIN * flops.matmuls


@settings(max_examples=examples(30), deadline=None, derandomize=True)
@given(model=st.sampled_from(list(MODELS)), drops=st.integers(1, 4), data=st.data())
def test_prediction_for_any_life_regression_is_what_fvcore_counts(model: str, drops: int, data: st.DataObject):
    dense = make_dense(model)
    method, plan = METHODS["life_regression"], Plan.dense(dense.shape)
    knobs = {"drops": drops, "spare_until": data.draw(st.integers(0, 3))}
    for k in range(1, drops + 1):
        knobs[f"drop_layer_{k}"] = data.draw(st.integers(1, 3))
        knobs[f"life_threshold_{k}"] = data.draw(st.floats(0.0, 0.98))
    solved = evaluate(method, dense.shape, plan, knobs)
    model_cut = method.build(copy.deepcopy(dense.module), dense.shape, solved.plan, solved.knobs)
    assert count_flops(model_cut, 32) == solved.flops


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(model=st.sampled_from(["vit", "deit", "distilled"]), share=st.floats(0.35, 0.9), class_query=st.booleans(), data=st.data())
def test_life_regression_on_any_budget_costs_what_fvcore_counts(model: str, share: float, class_query: bool, data: st.DataObject):
    """In both modes, whose worst case is the same."""
    dense = make_dense(model)
    method, plan = METHODS["life_regression"], Plan.dense(dense.shape, class_query=class_query)
    budget = int(share * predict(dense.shape, Plan.dense(dense.shape)).total)
    knobs = {"mode": data.draw(st.sampled_from(["fixed", "threshold"])), "drops": data.draw(st.integers(1, 3))}
    for k in range(1, knobs["drops"] + 1):
        knobs[f"drop_layer_{k}"] = data.draw(st.integers(1, 3))
        knobs[f"life_threshold_{k}"] = data.draw(st.floats(0.0, 0.98))
    try:
        solved = solve(method, dense.shape, plan, knobs, budget)
    except InfeasibleError:
        assume(False)
    cut = method.build(copy.deepcopy(dense.module), dense.shape, solved.plan, solved.knobs)
    if class_query:
        cut = class_query_last(cut, dense.shape.prefix_tokens)
    assert count_flops(cut, 32) == solved.flops == predict(dense.shape, solved.plan).total <= budget


@settings(max_examples=examples(30), deadline=None, derandomize=True)
@given(model=st.sampled_from(list(MODELS)), data=st.data())
def test_prediction_for_any_widths_is_what_fvcore_counts(model: str, data: st.DataObject):
    dense = make_dense(model)
    blocks = tuple(
        block.replace(head_width=data.draw(st.integers(1, 16)), hidden=data.draw(st.integers(1, 192)))
        for block in Plan.dense(dense.shape).blocks
    )
    plan = Plan(blocks=blocks)
    method = METHODS["vit_slim"]
    cut = method.build(copy.deepcopy(dense.module), dense.shape, plan, method.repair(dense.shape, {}))
    assert count_flops(cut, 32) == predict(dense.shape, plan).total


@settings(max_examples=10, deadline=None, derandomize=True)
@given(model=st.sampled_from(list(MODELS)), keep=st.floats(0.1, 1.0), threshold=st.floats(0.0, 0.98))
def test_prediction_for_both_methods_together_is_what_fvcore_counts(model: str, keep: float, threshold: float):
    dense = make_dense(model)
    width, tokens = METHODS["vit_slim"], METHODS["life_regression"]
    narrow = evaluate(width, dense.shape, Plan.dense(dense.shape), {"keep": keep})
    both = evaluate(tokens, dense.shape, narrow.plan, {"drops": 1, "drop_layer_1": 2, "life_threshold_1": threshold})
    cut = width.build(copy.deepcopy(dense.module), dense.shape, both.plan, narrow.knobs)
    cut = tokens.build(cut, dense.shape, both.plan, both.knobs)
    assert count_flops(cut, 32) == both.flops


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x.mean((2, 3)), self.weight)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cell(x.flatten(2).mT)[0]
        return out


@pytest.mark.parametrize(("module", "operator"), [(Distances(), "cdist"), (Recurrent(), "lstm")], ids=["cdist", "lstm"])
def test_an_operator_without_a_price_is_refused(module: nn.Module, operator: str):
    with pytest.raises(UnsupportedModelError, match=f"no price is known for .*{operator}"):
        count_flops(module, 8)


def test_counting_leaves_the_model_in_the_mode_it_was_in():
    model = make_dense().module.train()
    count_flops(model, 32)
    count_flops_torch(model, 32)
    assert model.training
    assert all(module.training for module in model.modules())


def test_counts_of_a_distilled_model_in_training_mode_are_those_of_inference():
    dense = make_dense("distilled")
    assert count_flops(dense.module.train(), 32) == count_flops(dense.module.eval(), 32)
