"""Prunes the widths of timm's own `Attention` and `Mlp`, exactly: the pruned layer computes what the masked layer computed.

timm derives the softmax scale from the head width, so a head pruned from d to k dimensions would be scaled by 1/sqrt(k) instead of
1/sqrt(d); the difference is folded into the query rows, W_q and b_q times sqrt(k/d).

Shapes: D model width, H heads, K head width, F hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from timm.layers import Attention, Mlp
from torch import Tensor


def narrow_attention(attention: Attention, kept_HK: Tensor, gate_HK: Tensor, *, heads: Sequence[int] | None = None) -> Attention:
    """The attention with `heads` alone (sorted indices; None: all) and, of each, the dimensions in its row of `kept_HK` (sorted).

    q, k and v of each dimension are scaled by its value in `gate_HK`. The logits equal those of the attention with the others masked.
    """
    heads = range(attention.num_heads) if heads is None else heads
    inner, old = attention.num_heads * attention.head_dim, attention.head_dim
    new = kept_HK.shape[1]
    rows_HK = kept_HK + old * torch.tensor(list(heads), device=kept_HK.device)[:, None]
    rows, gate = rows_HK.flatten(), gate_HK.flatten()
    narrow = empty_attention(attention, new, heads=len(heads))
    # timm will divide by sqrt(k) where the model has divided by sqrt(d): the queries make up for it.
    query_scale = math.sqrt(new / old)
    for part, scale in enumerate((gate * query_scale, gate, gate)):
        source, target = rows + part * inner, slice(part * len(rows), (part + 1) * len(rows))
        narrow.qkv.weight.data[target] = attention.qkv.weight.data[source] * scale[:, None]
        if attention.qkv.bias is not None:
            narrow.qkv.bias.data[target] = attention.qkv.bias.data[source] * scale
    # No gate on the projection: that of the values is in their rows, and only sums of values come here.
    narrow.proj.weight.data.copy_(attention.proj.weight.data[:, rows])
    if attention.proj.bias is not None:
        narrow.proj.bias.data.copy_(attention.proj.bias.data)
    return narrow


def narrow_mlp(mlp: Mlp, kept_F: Tensor, gate_F: Tensor) -> Mlp:
    """The MLP with the hidden units `kept_F` alone (sorted indices), each scaled by `gate_F` behind the activation."""
    narrow = empty_mlp(mlp, len(kept_F))
    narrow.fc1.weight.data.copy_(mlp.fc1.weight.data[kept_F])
    if mlp.fc1.bias is not None:
        narrow.fc1.bias.data.copy_(mlp.fc1.bias.data[kept_F])
    # The gate is behind the activation, so that only the columns of fc2 can take it.
    narrow.fc2.weight.data.copy_(mlp.fc2.weight.data[:, kept_F] * gate_F)
    if mlp.fc2.bias is not None:
        narrow.fc2.bias.data.copy_(mlp.fc2.bias.data)
    return narrow


def empty_attention(like: Attention, head_width: int, *, heads: int | None = None) -> Attention:
    """An attention with the settings of `like`, another head width and `heads` heads; its weights are set later."""
    narrow = Attention(
        like.qkv.in_features,
        num_heads=like.num_heads if heads is None else heads,
        attn_head_dim=head_width,
        qkv_bias=like.qkv.bias is not None,
        proj_bias=like.proj.bias is not None,
        attn_drop=like.attn_drop.p,
        proj_drop=like.proj_drop.p,
        device=like.qkv.weight.device,
        dtype=like.qkv.weight.dtype,
    )
    # timm sets it from a global switch when it makes the layer; the model's own setting counts.
    narrow.fused_attn = like.fused_attn
    return narrow.train(like.training)


def empty_mlp(like: Mlp, hidden: int) -> Mlp:
    """An MLP with the settings of `like` and `hidden` units; its weights are set later."""
    narrow = Mlp(
        like.fc1.in_features,
        hidden_features=hidden,
        out_features=like.fc2.out_features,
        bias=like.fc1.bias is not None,
        drop=(like.drop1.p, like.drop2.p),
        device=like.fc1.weight.device,
        dtype=like.fc1.weight.dtype,
    )
    # timm's default is GELU, which need not be the model's.
    narrow.act = like.act
    return narrow.train(like.training)
