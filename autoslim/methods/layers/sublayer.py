"""A sub-layer that is gone: what stands in the place of an attention or MLP that was removed whole.

The block stays timm's own `Block`, so that blocks with and without the sub-layer are loaded, exported and composed alike. The norm of
the branch goes too. What the sub-layer gave with all its masks at 0 stays: the bias of its last layer, through layer scale and drop
path, which costs nothing that is counted.

Shapes: B batch, N tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RemovedSublayer(nn.Module):
    """(B, N, D) in; out the bias (D,) for every token, or zeros."""

    def __init__(self, bias_D: Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias_D is None else nn.Parameter(bias_D.detach().clone())

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return torch.zeros_like(x_BND) if self.bias is None else self.bias.expand_as(x_BND)


def drop_attention(block: Any) -> None:
    block.norm1, block.attn = nn.Identity(), RemovedSublayer(block.attn.proj.bias)


def drop_mlp(block: Any) -> None:
    block.norm2, block.mlp = nn.Identity(), RemovedSublayer(block.mlp.fc2.bias)
