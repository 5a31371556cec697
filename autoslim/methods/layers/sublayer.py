"""What replaces an attention or an MLP that was removed whole.

The block remains timm's own `Block`, so that blocks with and without the sub-layer are loaded, exported and composed alike. The norm of
the branch is removed, too. What the sub-layer computes with all its masks at 0 remains: the bias of its last layer, through layer scale
and drop path. No counter prices it.

Shapes: B batch, N tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RemovedSublayer(nn.Module):
    """Maps (B, N, D) to the bias (D,) for every token, or to zeros without one."""

    def __init__(self, bias_D: Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias_D is None else nn.Parameter(bias_D.detach().clone())

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return torch.zeros_like(x_BND) if self.bias is None else self.bias.expand_as(x_BND)


def drop_attention(block: Any) -> None:
    block.norm1, block.attn = nn.Identity(), RemovedSublayer(block.attn.proj.bias)


def drop_mlp(block: Any) -> None:
    block.norm2, block.mlp = nn.Identity(), RemovedSublayer(block.mlp.fc2.bias)
