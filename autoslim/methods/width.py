"""Cutting the widths of timm's own `Attention` and `Mlp`, exactly: what is cut computes what the masked layer computed.

timm derives the softmax scale from the head width, so a head cut from d to k dimensions would be scaled by 1/sqrt(k) instead of
1/sqrt(d); the difference is folded into the query rows, W_q and b_q times sqrt(k/d).

Shapes: D model width, H heads, K head width, F hidden units.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn


def narrow_attention(attention: Attention, kept_HK: Tensor, gate_HK: Tensor) -> Attention:
    """Keeps `kept_HK[h]` of head h's dimensions (sorted indices, as many in each head), each scaled by `gate_HK` in q, k and v."""
    heads, old = attention.num_heads, attention.head_dim
    new = kept_HK.shape[1]
    rows_HK = kept_HK + old * torch.arange(heads, device=kept_HK.device)[:, None]
    rows, gate = rows_HK.flatten(), gate_HK.flatten()
    narrow = empty_attention(attention, new)
    query_scale = math.sqrt(new / old)
    for part, scale in enumerate((gate * query_scale, gate, gate)):
        source, target = rows + part * heads * old, slice(part * heads * new, (part + 1) * heads * new)
        narrow.qkv.weight.data[target] = attention.qkv.weight.data[source] * scale[:, None]
        if attention.qkv.bias is not None:
            narrow.qkv.bias.data[target] = attention.qkv.bias.data[source] * scale
    narrow.proj.weight.data.copy_(attention.proj.weight.data[:, rows])
    if attention.proj.bias is not None:
        narrow.proj.bias.data.copy_(attention.proj.bias.data)
    return narrow


def narrow_mlp(mlp: Mlp, kept_F: Tensor, gate_F: Tensor) -> Mlp:
    """Keeps the hidden units `kept_F` (sorted indices), each scaled by `gate_F` after the activation."""
    narrow = empty_mlp(mlp, len(kept_F))
    narrow.fc1.weight.data.copy_(mlp.fc1.weight.data[kept_F])
    if mlp.fc1.bias is not None:
        narrow.fc1.bias.data.copy_(mlp.fc1.bias.data[kept_F])
    narrow.fc2.weight.data.copy_(mlp.fc2.weight.data[:, kept_F] * gate_F)
    if mlp.fc2.bias is not None:
        narrow.fc2.bias.data.copy_(mlp.fc2.bias.data)
    return narrow


def empty_attention(like: Attention, head_width: int) -> Attention:
    """An attention with `like`'s heads and settings at another head width; its weights are still to be filled in."""
    narrow = Attention(
        like.qkv.in_features,
        num_heads=like.num_heads,
        attn_head_dim=head_width,
        qkv_bias=like.qkv.bias is not None,
        proj_bias=like.proj.bias is not None,
        attn_drop=like.attn_drop.p,
        proj_drop=like.proj_drop.p,
        device=like.qkv.weight.device,
        dtype=like.qkv.weight.dtype,
    )
    narrow.fused_attn = like.fused_attn
    return narrow.train(like.training)


def empty_mlp(like: Mlp, hidden: int) -> Mlp:
    """An MLP with `like`'s settings and `hidden` units; its weights are still to be filled in."""
    narrow = Mlp(
        like.fc1.in_features,
        hidden_features=hidden,
        out_features=like.fc2.out_features,
        bias=like.fc1.bias is not None,
        drop=(like.drop1.p, like.drop2.p),
        device=like.fc1.weight.device,
        dtype=like.fc1.weight.dtype,
    )
    narrow.act = like.act
    return narrow.train(like.training)


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


def gate_block(block: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Puts masks of ones into a timm block, in slots that hold an identity; returns them as (H, K) and (F,)."""
    attention, mlp = block.attn, block.mlp
    like = attention.qkv.weight
    zeta_HK = nn.Parameter(like.new_ones(attention.num_heads, attention.head_dim))
    zeta_F = nn.Parameter(like.new_ones(mlp.fc1.out_features))
    attention.q_norm, attention.k_norm, attention.norm = HeadGate(zeta_HK), HeadGate(zeta_HK), OutputGate(zeta_HK)
    mlp.norm = OutputGate(zeta_F)
    return zeta_HK, zeta_F
