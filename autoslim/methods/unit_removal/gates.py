"""Gates on the widths of timm's own blocks: one factor for each head dimension and hidden unit, in the slots of the block's norms.

As in ViT-Slim (arXiv 2201.00814, section 3) queries, keys and values of a dimension share one factor, and that of a hidden unit is behind
the activation. A gate of 0 computes what the block without the unit computes. Where queries and keys are normalised, each head on its own,
or rotated, the values alone have the factor: a head can then go whole, and none of its dimensions can.

Shapes: B batch, N tokens, H heads, K head width, F hidden units.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from autoslim.methods.layers.inner_norm import GatedNorm, norm_in
from autoslim.methods.layers.narrow import dims_are_tied


class HeadGate(nn.Module):
    """Multiplies queries or keys (B, H, N, K) by one value per head and dimension."""

    def __init__(self, zeta_HK: nn.Parameter) -> None:
        super().__init__()
        self.zeta = zeta_HK

    def forward(self, x_BHNK: Tensor) -> Tensor:
        return x_BHNK * self.zeta[:, None, :]


class OutputGate(nn.Module):
    """Multiplies concatenated heads or hidden units (B, N, width) by one value each.

    Behind the attention this is the values' mask: sum_j p_j (v_j * zeta) = (sum_j p_j v_j) * zeta.
    """

    def __init__(self, zeta: nn.Parameter) -> None:
        super().__init__()
        self.zeta = zeta

    def forward(self, x: Tensor) -> Tensor:
        return x * self.zeta.flatten()


def gate_widths(block: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Adds gates of 1 to a timm block, in place: those of its head dimensions (H, K) and of its hidden units (F,)."""
    attention, mlp = block.attn, block.mlp
    like = attention.qkv.weight
    zeta_HK = nn.Parameter(like.new_ones(attention.num_heads, attention.head_dim))
    zeta_F = nn.Parameter(like.new_ones(mlp.fc2.in_features))
    # One parameter in three places: queries, keys and values of a dimension stay or go together.
    if not dims_are_tied(attention):
        attention.q_norm, attention.k_norm = HeadGate(zeta_HK), HeadGate(zeta_HK)
    attention.norm, mlp.norm = _output_gate(attention.norm, zeta_HK), _output_gate(mlp.norm, zeta_F)
    return zeta_HK, zeta_F


def _output_gate(slot: nn.Module, zeta: nn.Parameter) -> nn.Module:
    norm = norm_in(slot)
    return OutputGate(zeta) if norm is None else GatedNorm(norm, zeta)
