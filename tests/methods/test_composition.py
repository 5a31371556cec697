"""Width, then tokens: a step works on what an earlier one has left."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from helpers.tiny import attach, config_of, images, logits, make_dense, share_of_dense, shared_of, slim, train
from torch import nn

from autoslim.core.recipe import Step
from autoslim.cost import count_flops, predict, predict_params
from autoslim.export.artifact import load, save
from autoslim.methods import METHODS, StepContext, solve
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.models import DenseModel

WIDTHS = ("vit_slim", "width")
TOKENS = [name for name in METHODS if name not in WIDTHS]


def compose(first_name: str, second: str, dense: DenseModel) -> tuple[nn.Module, list[Step], StepContext]:
    """Widths onto 80 %, then `second` onto 50 % of the dense model."""
    first = slim(first_name, dense, share=0.8, steps=1)
    budget = share_of_dense(dense.shape, 0.5)
    solved = solve(METHODS[second], dense.shape, first.plan, {}, budget)
    context = StepContext(
        shape=dense.shape, plan=first.plan, knobs=solved.knobs, budget=budget, shared=shared_of(second, dense, solved.knobs)
    )
    student = METHODS[second].attach(copy.deepcopy(first.model), context, images())
    train(second, dense, student, solved.knobs, steps=1)
    with torch.no_grad():
        finished = METHODS[second].prune(student, context)
    steps = [Step(method=first_name, knobs=first.knobs), Step(method=second, knobs=finished.knobs)]
    return finished.model.eval(), steps, StepContext(shape=dense.shape, plan=finished.plan, knobs={}, budget=budget)


@pytest.mark.slow
@pytest.mark.parametrize("second", TOKENS)
@pytest.mark.parametrize(("first", "model"), [("vit_slim", "deit"), ("vit_slim", "distilled"), ("width", "deit")])
def test_tokens_after_width(first: str, second: str, model: str, tmp_path: Path):
    dense = make_dense(model)
    composed, steps, context = compose(first, second, dense)
    predicted = predict(dense.shape, context.plan).total
    assert 0.9 * context.budget < predicted <= context.budget
    assert count_flops(composed, 32) == predicted
    assert predict_params(dense.shape, context.plan) == sum(p.numel() for p in composed.parameters())
    assert any(block.head_width < dense.shape.head_width or block.hidden < dense.shape.hidden for block in context.plan.blocks)
    assert min(block.tokens_mlp for block in context.plan.blocks) < dense.shape.tokens
    alone = slim(second, dense, share=0.5, steps=0)
    config = config_of(second, dense, alone)
    config = config.replace(recipe=config.recipe.replace(steps=tuple(steps)), plan=context.plan)
    save(tmp_path, composed, config)
    torch.testing.assert_close(logits(load(tmp_path), images()), logits(composed, images()))


@pytest.mark.parametrize(
    "second", [name if name == "life_regression" else pytest.param(name, marks=pytest.mark.slow) for name in TOKENS]
)
def test_what_the_first_step_has_pruned_is_tuned_with_the_second_steps_defaults(second: str):
    dense = make_dense("deit")
    composed, _, context = compose("width", second, dense)
    narrowed = context.plan.narrowed(dense.shape)
    assert 0 in narrowed
    for index in narrowed:
        # Selectors may stay as their own loss has left them.
        frozen = [name for name, p in blocks_of(composed)[index].named_parameters() if not p.requires_grad]
        assert all("selector" in name for name in frozen), (index, frozen)


def test_a_width_that_was_cut_is_felt_by_what_follows():
    dense = make_dense("deit")
    assert attach("life_regression", dense, METHODS["life_regression"].repair(dense.shape, {})) is not None
    composed, _, _ = compose("vit_slim", "life_regression", dense)
    alone = slim("life_regression", dense, share=0.5).model
    assert sum(p.numel() for p in composed.parameters()) < sum(p.numel() for p in alone.parameters())
