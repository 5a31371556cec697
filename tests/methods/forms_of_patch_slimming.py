"""Patch Slimming: knobs that cut nothing, and what holds in the place of a training form.

Nothing is trained before the cut, so that there is only one form; what is checked is that every block computes the very rows that the
whole block would from the same tokens, which is the paper's own masked formula.
"""

from __future__ import annotations

import copy

import torch
from helpers.tiny import attached, finalize, images, make_dense, solved_knobs
from torch import nn

from autoslim.methods.layers.token_selector import gather_tokens
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming.method import token_selectors

KEEP_ALL = {"keep": 1.0}


def check_training_form_is_cut_form(model: str) -> None:
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs("patch_slimming", dense.shape)
    student = attached("patch_slimming", dense, knobs).eval()
    assert not any(parameter.requires_grad for parameter in student.parameters())
    cut = finalize("patch_slimming", student, dense.shape, knobs).model
    check_rows_are_the_whole_blocks(cut, dense.module)


def check_rows_are_the_whole_blocks(cut: nn.Module, dense: nn.Module) -> None:
    """Every block of `cut` against the same rows of the dense model's block on the same input."""
    seen = []
    for whole, block in zip(blocks_of(copy.deepcopy(dense)), blocks_of(cut), strict=True):
        block.register_forward_hook(lambda _, inputs, output, whole=whole: seen.append((whole, inputs[0], output)))
    with torch.no_grad():
        cut(images(dtype=torch.float64))
        for number, selector in token_selectors(cut).items():
            whole, x_BND, out_BKD = seen[number]
            assert out_BKD.shape[1] < x_BND.shape[1]
            torch.testing.assert_close(out_BKD, gather_tokens(whole(x_BND), selector.rows(x_BND)), rtol=0, atol=1e-10)
    assert token_selectors(cut)
