"""Prunes the widths of attention, timm's own or one with positions, and of timm's `Mlp`, `GluMlp` and `SwiGLU`, exactly.

The pruned layer computes what the masked one did. timm derives the softmax scale from the head width, so a head pruned from d to k
dimensions would be scaled by 1/sqrt(k) instead of 1/sqrt(d); the difference is folded into the query rows, W_q and b_q times sqrt(k/d).
Norms inside a layer become those of the units that are left (`inner_norm`).

Shapes: D model width, H heads, K head width, F hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Attention, GluMlp, Mlp, SwiGLU
from torch import Tensor, nn

from autoslim.methods.layers.inner_norm import empty_norm, narrow_norm, norm_in
from autoslim.models.positional import NoKeyBias, PositionalAttention


def narrow_attention(attention: Any, kept_HK: Tensor, gate_HK: Tensor, *, heads: Sequence[int] | None = None) -> Any:
    """The attention with `heads` alone (sorted indices; None: all) and, of each, the dimensions in its row of `kept_HK` (sorted).

    q, k and v of each dimension are scaled by its value in `gate_HK`. The logits equal those of the attention with the others masked.
    Where queries and keys are normalised or rotated, v alone is scaled, and every row of `kept_HK` has to keep all dimensions.
    """
    heads = range(attention.num_heads) if heads is None else heads
    inner, old = attention.num_heads * attention.head_dim, attention.head_dim
    new = kept_HK.shape[1]
    rows_HK = kept_HK + old * torch.tensor(list(heads), device=kept_HK.device)[:, None]
    rows, gate = rows_HK.flatten(), gate_HK.flatten()
    narrow = empty_attention(attention, new, heads=heads)
    ones, behind = torch.ones_like(gate), norm_in(attention.norm)
    of_keys = ones if dims_are_tied(attention) else gate
    # timm will divide by sqrt(k) where the model has divided by sqrt(d): the queries make up for it.
    of_queries = of_keys * math.sqrt(new / old)
    # A norm behind the attention would undo a factor of the values: the columns of the projection take it.
    of_values, of_columns = (gate, ones) if behind is None else (ones, gate)
    source, scale = torch.cat([rows + part * inner for part in range(3)]), torch.cat((of_queries, of_keys, of_values))
    narrow.qkv.weight.data.copy_(attention.qkv.weight.data[source] * scale[:, None])
    if attention.qkv.bias is not None:
        _set_bias(narrow.qkv, attention.qkv.bias.data[source] * scale)
    if behind is not None:
        narrow.norm = narrow_norm(behind, rows)
    narrow.proj.weight.data.copy_(attention.proj.weight.data[:, rows] * of_columns)
    if attention.proj.bias is not None:
        narrow.proj.bias.data.copy_(attention.proj.bias.data)
    return narrow


def dims_are_tied(attention: Any) -> bool:
    """Whether a norm or a rotation ties the dimensions of a head's queries and keys; see `BlockShape.tied_dims`."""
    return norm_in(attention.q_norm) is not None or (isinstance(attention, PositionalAttention) and attention.positions.rotates)


def _set_bias(qkv: Any, bias_3E: Tensor) -> None:
    if isinstance(qkv, NoKeyBias):
        q_E, _, v_E = bias_3E.chunk(3)
        qkv.q_bias.data.copy_(q_E)
        qkv.v_bias.data.copy_(v_E)
    else:
        qkv.bias.data.copy_(bias_3E)


def narrow_mlp(mlp: Any, kept_F: Tensor, gate_F: Tensor) -> nn.Module:
    """The MLP with the hidden units `kept_F` alone (sorted indices), each scaled by `gate_F` behind the activation."""
    narrow: Any = empty_mlp(mlp, len(kept_F))
    # A packed SwiGLU has its units' gates and values in two halves of one layer.
    rows = torch.cat((kept_F, kept_F + mlp.fc2.in_features)) if isinstance(mlp, GluMlp) else kept_F
    for name in first_layers(mlp):
        whole, own = getattr(mlp, name), getattr(narrow, name)
        own.weight.data.copy_(whole.weight.data[rows])
        if whole.bias is not None:
            own.bias.data.copy_(whole.bias.data[rows])
    behind = norm_in(mlp.norm)
    if behind is not None:
        narrow.norm = narrow_norm(behind, kept_F)
    # The gate is behind the activation, so that only the columns of fc2 can take it.
    narrow.fc2.weight.data.copy_(mlp.fc2.weight.data[:, kept_F] * gate_F)
    if mlp.fc2.bias is not None:
        narrow.fc2.bias.data.copy_(mlp.fc2.bias.data)
    return narrow  # type: ignore[no-any-return]


def first_layers(mlp: nn.Module) -> tuple[str, ...]:
    """The names of the layers in front of the activation."""
    return ("fc1_g", "fc1_x") if isinstance(mlp, SwiGLU) else ("fc1",)


def empty_attention(like: Any, head_width: int, *, heads: Sequence[int] | None = None) -> Any:
    """An attention with the settings of `like`, another head width and its heads `heads` (None: all); its weights are set later.

    Positions that a head has for itself go with it.
    """
    if isinstance(like, PositionalAttention):
        return _empty_positional(like, head_width, range(like.num_heads) if heads is None else heads)
    narrow = Attention(
        like.qkv.in_features,
        num_heads=like.num_heads if heads is None else len(heads),
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
    # In a head whose queries and keys are normalised, the width is that of `like`.
    narrow.q_norm, narrow.k_norm = empty_norm(like.q_norm, head_width), empty_norm(like.k_norm, head_width)
    narrow.norm = empty_norm(like.norm, narrow.attn_dim)
    return narrow.train(like.training)


def _empty_positional(like: PositionalAttention, head_width: int, heads: Sequence[int]) -> PositionalAttention:
    inner, weight, biased = len(heads) * head_width, like.qkv.weight, like.qkv.bias is not None
    where: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    qkv: nn.Module
    if isinstance(like.qkv, NoKeyBias):
        empty = [nn.Parameter(torch.zeros(size, **where)) for size in ((3 * inner, weight.shape[1]), inner, inner)]
        qkv = NoKeyBias(*empty)
    else:
        qkv = nn.Linear(weight.shape[1], 3 * inner, bias=biased, **where)
    return PositionalAttention(
        heads=len(heads),
        head_width=head_width,
        qkv=qkv,
        proj=nn.Linear(inner, like.proj.out_features, bias=like.proj.bias is not None, **where),
        positions=like.positions.of_heads(heads),
        norms=(empty_norm(like.q_norm, head_width), empty_norm(like.k_norm, head_width), empty_norm(like.norm, inner)),
        drops=(like.attn_drop.p, like.proj_drop.p),
        fused=like.fused_attn,
        separate=like.separate,
    ).train(like.training)


def empty_mlp(like: Any, hidden: int) -> nn.Module:
    """An MLP of the class and with the settings of `like`, and `hidden` units; its weights are set later."""
    first = getattr(like, first_layers(like)[0])
    settings: dict[str, Any] = {
        "in_features": first.in_features,
        "hidden_features": hidden,
        "out_features": like.fc2.out_features,
        "bias": (first.bias is not None, like.fc2.bias is not None),
        "drop": (like.drop1.p, like.drop2.p),
        "device": first.weight.device,
        "dtype": first.weight.dtype,
    }
    narrow: Any
    if isinstance(like, GluMlp):
        narrow = GluMlp(**{**settings, "hidden_features": 2 * hidden}, gate_last=like.gate_last)
    else:
        narrow = SwiGLU(**settings) if isinstance(like, SwiGLU) else Mlp(**settings)
    # timm's default activation need not be the model's.
    narrow.act, narrow.norm = like.act, empty_norm(like.norm, hidden)
    return narrow.train(like.training)  # type: ignore[no-any-return]
