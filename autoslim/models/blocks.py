"""Reads the parts that timm's transformers have in common: blocks, attention, MLPs and norms."""

from __future__ import annotations

from typing import Any

from timm.layers import Attention, GluMlp, LayerNorm, Mlp, RmsNorm, SwiGLU
from timm.models.vision_transformer import Block, ParallelScalingBlock, ParallelThingsBlock, ResPostBlock
from torch import nn

from autoslim.core.shape import BlockShape
from autoslim.errors import UnsupportedModelError
from autoslim.models.positional import NoKeyBias, PositionalAttention, PositionalBlock, Positions


def read_block(block: nn.Module, name: str, tokens: int) -> BlockShape:
    """The shape of one of timm's blocks. Raises UnsupportedModelError that names the part of it that no method can slim."""
    part: Any = block
    if type(block) is ParallelScalingBlock:
        return _scaling_block(part, name, tokens)
    if type(block) is ParallelThingsBlock:
        first = read_sublayers(part.attns[0].norm, part.attns[0].attn, part.ffns[0].norm, part.ffns[0].mlp, name, tokens)
        return first.replace(whole=True, branches=part.num_parallel)
    if type(block) not in (Block, ResPostBlock, PositionalBlock):
        raise UnsupportedModelError(f"{name} is a {type(block).__name__}, not one of timm's blocks that can be slimmed")
    shape = read_sublayers(part.norm1, part.attn, part.norm2, part.mlp, name, tokens)
    return shape.replace(norms_behind=has_norms_behind(block))


def has_norms_behind(block: nn.Module) -> bool:
    """Whether a block applies its norms to what its sub-layers compute instead of what they read."""
    return type(block) is ResPostBlock or bool(getattr(block, "norms_behind", False))


def _scaling_block(block: Any, name: str, tokens: int) -> BlockShape:
    """Attention and MLP side by side behind one norm, with their first layers in one matrix."""
    kind = norm_kind(block.in_norm, f"{name}.in_norm")
    if kind is None:
        raise UnsupportedModelError(f"{name}.in_norm is missing")
    return BlockShape(
        dim=block.in_proj.in_features,
        tokens=tokens,
        heads=block.num_heads,
        head_width=block.head_dim,
        hidden=block.in_split[0],
        norm=kind,
        qk_norm=has_norm(block.q_norm, f"{name}.q_norm", kind),
        whole=True,
        shared_norm=True,
    )


def read_sublayers(norm1: nn.Module, attention: Any, norm2: nn.Module, mlp: Any, name: str, tokens: int) -> BlockShape:
    """The shape of a block of these parts. Raises UnsupportedModelError that names the one that no method can slim."""
    if type(attention) not in (Attention, PositionalAttention) or attention.gate is not None:
        raise UnsupportedModelError(f"{name}.attn is a {type(attention).__name__} (or gated), not timm's plain Attention")
    if type(mlp) not in (Mlp, GluMlp, SwiGLU):
        raise UnsupportedModelError(f"{name}.mlp is a {type(mlp).__name__}, not timm's Mlp, GluMlp or SwiGLU")
    kind = norm_kind(norm1, f"{name}.norm1")
    if kind is None or norm_kind(norm2, f"{name}.norm2") != kind:
        raise UnsupportedModelError(f"{name}.norm1 and {name}.norm2 are missing, or of different kinds")
    normed: dict[str, Any] = {
        flag: has_norm(norm, f"{name}.{slot}", kind)
        for flag, slot, norm in (
            ("qk_norm", "attn.q_norm", attention.q_norm),
            ("attention_norm", "attn.norm", attention.norm),
            ("mlp_norm", "mlp.norm", mlp.norm),
        )
    }
    first = mlp.fc1_g if isinstance(mlp, SwiGLU) else mlp.fc1
    return BlockShape(
        dim=attention.qkv.in_features,
        tokens=tokens,
        heads=attention.num_heads,
        head_width=attention.head_dim,
        hidden=mlp.fc2.in_features,
        mlp_matrices=2 if type(mlp) is Mlp else 3,
        norm=kind,
        qkv_bias=attention.qkv.bias is not None,
        key_bias=not isinstance(attention.qkv, NoKeyBias),
        mlp_bias=first.bias is not None,
        **_positions(attention),
        **normed,
    )


def _positions(attention: Any) -> dict[str, Any]:
    if not isinstance(attention, PositionalAttention):
        return {}
    positions = attention.positions
    own = sum(parameter.numel() for parameter in positions.parameters())
    return {
        "positions": type(positions) is not Positions,
        "rotary": positions.rotates,
        "head_params": own // attention.num_heads,
    }


def norm_kind(module: nn.Module, name: str) -> str | None:
    """`layer` or `rms`, as in `BlockShape.norm`; None where there is no norm. Raises UnsupportedModelError for any other module."""
    if isinstance(module, nn.Identity):
        return None
    kinds = [kind for kind, classes in (("layer", (LayerNorm, nn.LayerNorm)), ("rms", (RmsNorm,))) if isinstance(module, classes)]
    if not kinds or not module.elementwise_affine:
        raise UnsupportedModelError(f"{name} is a {type(module).__name__}, not an affine LayerNorm or RmsNorm")
    return kinds[0]


def has_norm(module: nn.Module, name: str, kind: str) -> bool:
    """Whether there is a norm, which has to be of this kind. Raises UnsupportedModelError for one of another kind."""
    own = norm_kind(module, name)
    if own not in (None, kind):
        raise UnsupportedModelError(f"{name} is a {type(module).__name__}, of another kind than the norms of the blocks")
    return own is not None
