"""Opens blocks of timm's that scale their branches by parameters and pack queries, keys and values in their own way.

Separate matrices of queries, keys and values become one, scales become `LayerScale`; what is computed stays the same to the last bit.

Shapes: D width.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import LayerScale
from torch import Tensor, nn

from autoslim.errors import UnsupportedModelError
from autoslim.models.positional import NoKeyBias, PositionalAttention, PositionalBlock, Positions


def open_block(block: Any, positions: Positions, name: str, attentions: tuple[type[nn.Module], ...]) -> PositionalBlock:
    """The open form of a block that scales its branches by `gamma_1` and `gamma_2`, made of the block's parts.

    Raises:
        UnsupportedModelError: naming the part that is not of the kinds that this takes; `attentions` are those of attention.
    """
    scales = {"ls1": _layer_scale(block.gamma_1), "ls2": _layer_scale(block.gamma_2)}
    own = {part: getattr(block, part) for part in ("norm1", "drop_path1", "norm2", "mlp", "drop_path2")}
    attention = open_attention(block.attn, positions, name, attentions)
    parts = {**own, **scales, "attn": attention}
    # The order of timm's `Block`, in which parameters are listed.
    order = ("norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2")
    return PositionalBlock({part: parts[part] for part in order}).train(block.training)


def _layer_scale(gamma_D: nn.Parameter | None) -> nn.Module:
    if gamma_D is None:
        return nn.Identity()
    scale: nn.Module = LayerScale(len(gamma_D), device=gamma_D.device)
    scale.gamma = gamma_D
    return scale


def open_attention(
    attention: Any, positions: Positions, name: str, attentions: tuple[type[nn.Module], ...]
) -> PositionalAttention:
    """The open form of an attention. Raises UnsupportedModelError as `open_block` does."""
    if type(attention) not in attentions or getattr(attention, "gate", None) is not None:
        allowed = " or ".join(kind.__name__ for kind in attentions)
        raise UnsupportedModelError(f"{name}.attn is a {type(attention).__name__} (or gated), not timm's {allowed}")
    if getattr(attention, "num_kv_groups", 1) > 1:
        raise UnsupportedModelError(f"{name}.attn shares keys and values between {attention.num_kv_groups} heads each")
    q_norm, k_norm, norm = (getattr(attention, slot, None) or nn.Identity() for slot in ("q_norm", "k_norm", "norm"))
    return PositionalAttention(
        heads=attention.num_heads,
        head_width=attention.proj.in_features // attention.num_heads,
        qkv=_packed(attention),
        proj=attention.proj,
        positions=positions,
        norms=(q_norm, k_norm, norm),
        drops=(attention.attn_drop.p, attention.proj_drop.p),
        # Attention that timm computes in no other way has no such setting.
        fused=getattr(attention, "fused_attn", False),
        separate=attention.qkv is None,
    )


def _packed(attention: Any) -> nn.Linear | NoKeyBias:
    """The matrices of queries, keys and values as one, with the biases that they have."""
    if attention.qkv is not None:
        q_bias = getattr(attention, "q_bias", None)
        whole: nn.Linear = attention.qkv
        return whole if q_bias is None else NoKeyBias(nn.Parameter(whole.weight.detach()), q_bias, attention.v_bias)
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    weight = nn.Parameter(torch.cat((q.weight, k.weight, v.weight)).detach())
    if q.bias is not None and k.bias is None:
        return NoKeyBias(weight, q.bias, v.bias)
    packed = nn.Linear(weight.shape[1], weight.shape[0], bias=q.bias is not None, device="meta")
    packed.weight = weight
    if q.bias is not None:
        packed.bias = nn.Parameter(torch.cat((q.bias, k.bias, v.bias)).detach())
    return packed


def timm_names(model: nn.Module) -> dict[str, Tensor]:
    """The weights of an open model, those of its open blocks under timm's names."""
    named = dict(model.state_dict())
    for index, block in enumerate(model.blocks):  # type: ignore[arg-type]
        own = f"blocks.{index}."
        if isinstance(block, PositionalBlock):
            for name in [name for name in named if name.startswith(own)]:
                parts = _timm_names(name.removeprefix(own), named.pop(name), block)
                named |= {own + timms: part for timms, part in parts.items()}
    return named


def _timm_names(name: str, value: Tensor, block: Any) -> dict[str, Tensor]:
    """A parameter of an open block under the names of timm's block."""
    separate = bool(getattr(block.attn, "separate", False))
    match name:
        case "attn.qkv.q_bias" | "attn.qkv.v_bias":
            letter = name[9]
            return {f"attn.{letter}_proj.bias" if separate else f"attn.{letter}_bias": value}
        case "attn.qkv.weight" | "attn.qkv.bias" if separate:
            kind = name.rpartition(".")[2]
            return {f"attn.{letter}_proj.{kind}": part for letter, part in zip("qkv", value.chunk(3), strict=True)}
        case "ls1.gamma" | "ls2.gamma":
            return {f"gamma_{name[2]}": value}
        case _:
            return {name: value}
