"""What holds for blocks that compute some of their tokens only, whichever method chose them."""

from __future__ import annotations

import copy

import torch
from helpers.tiny import images
from torch import nn

from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming.method import token_selectors
from autoslim.models.placed_tokens import gather_tokens, placed


def check_rows_are_the_whole_blocks(cut: nn.Module, dense: nn.Module) -> None:
    """Every block of `cut` against the same rows of the dense model's block on the same input."""
    seen = []
    for whole, block in zip(blocks_of(copy.deepcopy(dense)), blocks_of(cut), strict=True):
        block.register_forward_hook(lambda _, inputs, output, whole=whole: seen.append((whole, inputs[0], output)))
    with torch.no_grad():
        cut(images(dtype=torch.float64))
        for number, selector in token_selectors(cut).items():
            whole, entered, left = seen[number]
            x_BND, out_BKD, whole_BND = (placed(tokens).x_BND for tokens in (entered, left, whole(entered)))
            assert out_BKD.shape[1] < x_BND.shape[1]
            torch.testing.assert_close(out_BKD, gather_tokens(whole_BND, selector.rows(x_BND)), rtol=0, atol=1e-10)
    assert token_selectors(cut)
