"""Gradual pruning: in training counts fall to those of the plan, and what is evaluated has the plan's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.tiny import batch_of, images, logits, make_dense, slim
from torch import nn

from autoslim.core.recipe import Knobs
from autoslim.methods import METHODS
from autoslim.methods.layers.gradual import _ease_places
from autoslim.methods.layers.token_selector import FixedTokens
from autoslim.methods.layers.token_trunk import blocks_of

TWO_DROPS = {"drops": 2, "drop_layer_1": 1, "drop_layer_2": 2, "life_threshold_1": 0.3, "life_threshold_2": 0.6}


def tokens_left(model: nn.Module) -> list[int]:
    """Behind each block."""
    left: list[int] = []

    def note(block: nn.Module, inputs: Any, output: Any) -> None:
        left.append(getattr(output, "x_BND", output).shape[1])

    hooks = [block.register_forward_hook(note) for block in blocks_of(model)]
    logits(model, images())
    for hook in hooks:
        hook.remove()
    return left


@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        ("patch_slimming", {"counts": "pyramid"}),
        ("patch_slimming", {"counts": "pyramid", "dead": "merge"}),
        ("dps", {"counts": "pyramid"}),
        ("dps", {"counts": "pyramid", "learn_from": "task"}),
        ("dps", {"counts": "pyramid", "dead": "merge"}),
        ("life_regression", TWO_DROPS),
        ("life_regression", {**TWO_DROPS, "last_reading": True}),
    ],
)
def test_counts_fall_on_a_line_from_all_patches(method: str, knobs: Knobs):
    dense = make_dense("vit")
    finished = slim(method, dense, knobs={**knobs, "gradual": 0.5})
    planned = [block.tokens_mlp for block in finished.plan.blocks]
    for progress, done in ((0.0, 0.0), (0.25, 0.5), (0.3, 0.5), (0.5, 1.0), (0.9, 1.0)):
        batch = batch_of(finished.model.train(), dense.module, dense.shape)
        batch.progress = progress
        METHODS[method].finetune_loss(finished.knobs, batch)["loss"].backward()
        # A last block that computes the class token alone removes nothing that anything reads.
        assert tokens_left(finished.model) == [count if count == 1 else round(65 - done * (65 - count)) for count in planned]
        assert tokens_left(finished.model.eval()) == planned


def test_places_go_in_the_order_in_which_the_pruned_form_removes_them():
    first, second = FixedTokens(torch.tensor([0, 1, 3, 4, 6])), FixedTokens(torch.tensor([0, 2, 4]))
    for part, eased in ((first, 6), (second, 4)):
        part.eased = eased
    _ease_places([first, second], 7)
    # Of 7 tokens 3 and 6 outlive both selections with the prefix, 1 and 4 the first; of the others 2 is the first in reading order.
    assert first.train().rows(torch.zeros(1, 7, 1)).tolist() == [0, 1, 2, 3, 4, 6]
    assert second.train().rows(torch.zeros(1, 6, 1)).tolist() == [0, 1, 3, 5]
    assert first.eval().rows(torch.zeros(1, 7, 1)).tolist() == [0, 1, 3, 4, 6]
    first.eased = second.eased = None
    _ease_places([first, second], 7)
    assert first.train().rows(torch.zeros(1, 7, 1)).tolist() == [0, 1, 3, 4, 6]


def test_without_the_option_counts_are_the_plans_from_the_start():
    dense = make_dense("vit")
    finished = slim("dps", dense, knobs={"counts": "pyramid"})
    batch = batch_of(finished.model.train(), dense.module, dense.shape)
    batch.progress = 0.0
    METHODS["dps"].finetune_loss(finished.knobs, batch)
    assert tokens_left(finished.model) == [block.tokens_mlp for block in finished.plan.blocks]
    shape = dense.shape
    assert "gradual" not in METHODS["dps"].repair(shape, {"adaptive": True})
    assert "gradual" not in METHODS["life_regression"].repair(shape, {"mode": "threshold"})
