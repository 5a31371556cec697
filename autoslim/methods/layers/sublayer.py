"""What replaces an attention or an MLP that was removed whole.

The block remains timm's own `Block`, so that blocks with and without the sub-layer are loaded, exported and composed alike. The norm of
the branch is removed, too. What the sub-layer computes with all its masks at 0 remains: the bias of its last layer, through layer scale
and drop path; where a block's norms are behind its sub-layers, that bias after the norm. No counter prices it.

Shapes: B batch, N tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.models.blocks import has_norms_behind


class RemovedSublayer(nn.Module):
    """Maps (B, N, D) to the bias (D,) for every token, or to zeros without one."""

    def __init__(self, bias_D: Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias_D is None else nn.Parameter(bias_D.detach().clone())

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return torch.zeros_like(x_BND) if self.bias is None else self.bias.expand_as(x_BND)


def check_parts(method: str, shape: ViTShape) -> None:
    """Raises UnsupportedModelError unless attention and MLP of every block can be run on their own, behind their norms."""
    for index, block in enumerate(shape.blocks):
        if block.whole or block.norms_behind:
            raise UnsupportedModelError(
                f"blocks.{index}: {method} runs attention and MLP of a block one by one; this model's blocks are parallel or post-norm"
            )


def check_widths(method: str, shape: ViTShape) -> None:
    """Raises UnsupportedModelError unless attention and MLP of every block can be cut on their own."""
    for index, block in enumerate(shape.blocks):
        if block.whole:
            raise UnsupportedModelError(
                f"blocks.{index}: {method} cuts attention and MLP of a block one by one; this model's blocks are parallel"
            )


def check_tokens(method: str, shape: ViTShape) -> None:
    """Raises UnsupportedModelError unless some of the image's tokens can be computed without the others."""
    if shape.windowed:
        raise UnsupportedModelError(
            f"{method} changes which tokens there are, and this model computes its attention in windows that need all of them"
        )


def drop_attention(block: Any) -> None:
    rest_D = _rest(block, block.norm1, block.attn.proj.bias)
    block.norm1, block.attn = nn.Identity(), RemovedSublayer(rest_D)


def drop_mlp(block: Any) -> None:
    rest_D = _rest(block, block.norm2, block.mlp.fc2.bias)
    block.norm2, block.mlp = nn.Identity(), RemovedSublayer(rest_D)


def _rest(block: Any, norm: nn.Module, bias_D: Tensor | None) -> Tensor | None:
    """What a sub-layer computes without its units: the bias of its last layer, and what a norm behind it makes of that."""
    if bias_D is None or not has_norms_behind(block):
        return bias_D
    with torch.no_grad():
        rest_D: Tensor = norm(bias_D)
    return rest_D
