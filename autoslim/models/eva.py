"""timm's `Eva`: EVA, EVA02, DINOv3, Perception Encoder, ViTs with rotary positions.

timm's model hands rotary positions from block to block and has blocks of its own. Open, it is the same model with blocks that have
timm's usual parts and whose attention knows its positions (`positional`): separate matrices of queries, keys and values are one, and
the scales of the branches are `LayerScale`. timm shifts and stretches the positions of some models at random while they train; open
models do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from timm.layers import LayerScale, PatchEmbed
from timm.layers.attention import AttentionRope
from timm.layers.pos_embed_sincos import RotaryEmbeddingMixed
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm, checkpoint_filter_fn
from torch import Tensor, nn

from autoslim.core.shape import BlockShape
from autoslim.errors import UnsupportedModelError
from autoslim.models.blocks import read_block, read_sublayers
from autoslim.models.positional import (
    MixedRotation,
    NoKeyBias,
    PositionalAttention,
    PositionalBlock,
    Positions,
    Rotation,
)
from autoslim.models.vision_transformer import PlainViT


class EvaFamily(PlainViT):
    """Blocks with or without rotary positions; their norms are in front, or behind in blocks that stay timm's own."""

    classes: ClassVar[tuple[type[nn.Module], ...]] = (Eva,)
    modules: ClassVar[tuple[str, ...]] = ("eva",)
    classifiers: ClassVar[tuple[str, ...]] = ("head.",)
    stems: ClassVar[tuple[type[nn.Module], ...]] = (PatchEmbed,)

    def read_block(self, block: nn.Module, name: str, tokens: int) -> BlockShape:
        if isinstance(block, EvaBlockPostNorm):
            part: Any = block
            return read_sublayers(
                part.norm1, _open_attention(part.attn, Positions(), name), part.norm2, part.mlp, name, tokens
            ).replace(whole=True)
        return read_block(block, name, tokens)

    def blocks_of(self, model: nn.Module) -> list[nn.Module]:
        """The blocks as they are in the open model, made from the model's parts."""
        vit: Any = model
        blocks = list(vit.blocks)
        if not any(type(block) is EvaBlock for block in blocks):
            return blocks
        positions = _positions(vit)
        return [_open_block(block, positions(index), f"blocks.{index}") for index, block in enumerate(blocks)]

    def pool_reads_prefix(self, vit: Any) -> bool:
        # timm's `Eva` cuts prefix tokens off in front of a mean, and not in front of attention pooling.
        return vit.attn_pool is not None

    def open(self, model: nn.Module) -> nn.Module:
        vit: Any = model
        vit.blocks = nn.Sequential(*self.blocks_of(model))
        # timm's loop over the blocks has no positions to hand on any more.
        vit.rope, vit.rope_mixed = None, False
        return model

    def units_per_row(self, mlp: nn.Module) -> float:
        return 1.0

    def own_names(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        filtered: dict[str, Tensor] = checkpoint_filter_fn(state, model)
        return filtered

    def timm_state(self, model: nn.Module) -> dict[str, Tensor]:
        named, frequencies = dict(model.state_dict()), []
        for index, block in enumerate(model.blocks):  # type: ignore[arg-type]
            if not isinstance(block, PositionalBlock):
                continue
            own = f"blocks.{index}."
            for name in [name for name in named if name.startswith(own)]:
                value = named.pop(name)
                if name.endswith("positions.frequencies"):
                    frequencies.append(value)
                else:
                    named |= {own + timms: part for timms, part in _timm_names(name.removeprefix(own), value, block).items()}
        return named | ({"rope.freqs": torch.stack(frequencies, dim=1)} if frequencies else {})


def _positions(vit: Any) -> Callable[[int], Positions]:
    """What makes the positions of the attention in the block of an index."""
    rope, prefix = vit.rope, vit.num_prefix_tokens
    if rope is None:
        return lambda index: Positions()
    if isinstance(rope, RotaryEmbeddingMixed):
        # In prefix tokens all angles are 0: the rotation leaves them as they are.
        axes_2T = torch.stack([torch.cat((axis.new_zeros(prefix), axis)) for axis in (rope.t_x, rope.t_y)])
        return lambda index: MixedRotation(rope.freqs.detach()[:, index].clone(), axes_2T)
    # In training mode the positions may be shifted at random.
    rope.eval()
    table_P2K = rope.get_embed() if hasattr(rope, "feat_shape") else rope.get_embed(shape=vit.patch_embed.grid_size)
    sin_PK, cos_PK = table_P2K.chunk(2, dim=-1)
    width = sin_PK.shape[1]
    still = torch.cat((sin_PK.new_zeros(prefix, width), cos_PK.new_ones(prefix, width)), dim=1)
    table_T2K = torch.cat((still, table_P2K))
    half = bool(vit.blocks[0].attn.rotate_half)
    return lambda index: Rotation(table_T2K, half=half)


def _open_block(block: Any, positions: Positions, name: str) -> PositionalBlock:
    if type(block) is not EvaBlock:
        raise UnsupportedModelError(f"{name} is a {type(block).__name__} among blocks of another kind")
    scales = {"ls1": _layer_scale(block.gamma_1), "ls2": _layer_scale(block.gamma_2)}
    own = {part: getattr(block, part) for part in ("norm1", "drop_path1", "norm2", "mlp", "drop_path2")}
    attention = _open_attention(block.attn, positions, name)
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


def _open_attention(attention: Any, positions: Positions, name: str) -> PositionalAttention:
    if type(attention) not in (EvaAttention, AttentionRope) or attention.gate is not None:
        raise UnsupportedModelError(
            f"{name}.attn is a {type(attention).__name__} (or gated), not timm's EvaAttention or AttentionRope"
        )
    if getattr(attention, "num_kv_groups", 1) > 1:
        raise UnsupportedModelError(f"{name}.attn shares keys and values between {attention.num_kv_groups} heads each")
    return PositionalAttention(
        heads=attention.num_heads,
        head_width=attention.head_dim,
        qkv=_packed(attention),
        proj=attention.proj,
        positions=positions,
        norms=(attention.q_norm, attention.k_norm, attention.norm),
        drops=(attention.attn_drop.p, attention.proj_drop.p),
        fused=attention.fused_attn,
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
