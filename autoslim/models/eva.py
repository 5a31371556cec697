"""timm's `Eva`: EVA, EVA02, DINOv3, Perception Encoder, ViTs with rotary positions.

timm's model hands rotary positions from block to block; in the open model each attention has its own (`positional`). timm shifts and
stretches the positions of some models at random while they train; open models do not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from timm.layers import PatchEmbed
from timm.layers.attention import AttentionRope
from timm.layers.pos_embed_sincos import RotaryEmbeddingMixed
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm, checkpoint_filter_fn
from torch import Tensor, nn

from autoslim.core.shape import BlockShape
from autoslim.errors import UnsupportedModelError
from autoslim.models.blocks import read_block, read_sublayers
from autoslim.models.opened_block import open_attention, open_block, timm_names
from autoslim.models.positional import MixedRotation, PositionalBlock, Positions, Rotation
from autoslim.models.vision_transformer import PlainViT

_ATTENTION = (EvaAttention, AttentionRope)


class EvaFamily(PlainViT):
    """Blocks with or without rotary positions; their norms are in front, or behind in blocks that stay timm's own."""

    classes: ClassVar[tuple[type[nn.Module], ...]] = (Eva,)
    modules: ClassVar[tuple[str, ...]] = ("eva",)
    classifiers: ClassVar[tuple[str, ...]] = ("head.",)
    stems: ClassVar[tuple[type[nn.Module], ...]] = (PatchEmbed,)
    filter_checkpoint: ClassVar[Callable[..., dict[str, Tensor]]] = checkpoint_filter_fn
    ratio_counts_rows: ClassVar[bool] = False

    def read_block(self, block: nn.Module, name: str, tokens: int) -> BlockShape:
        if isinstance(block, EvaBlockPostNorm):
            part: Any = block
            return read_sublayers(
                part.norm1, open_attention(part.attn, Positions(), name, _ATTENTION), part.norm2, part.mlp, name, tokens
            ).replace(whole=True)
        return read_block(block, name, tokens)

    def blocks_of(self, model: nn.Module) -> list[nn.Module]:
        """The blocks as they are in the open model, made from the model's parts."""
        vit: Any = model
        blocks = list(vit.blocks)
        if not any(type(block) is EvaBlock for block in blocks):
            return blocks
        positions = _positions(vit)
        return [_opened(block, positions(index), f"blocks.{index}") for index, block in enumerate(blocks)]

    def pool_reads_prefix(self, vit: Any) -> bool:
        # timm's `Eva` cuts prefix tokens off in front of a mean, and not in front of attention pooling.
        return vit.attn_pool is not None

    def open(self, model: nn.Module) -> nn.Module:
        vit: Any = model
        vit.blocks = nn.Sequential(*self.blocks_of(model))
        # timm's loop over the blocks has no positions to hand on any more.
        vit.rope, vit.rope_mixed = None, False
        return model

    def timm_state(self, model: nn.Module) -> dict[str, Tensor]:
        state = timm_names(model)
        frequencies = [state.pop(name) for name in list(state) if name.endswith("positions.frequencies")]
        return state | ({"rope.freqs": torch.stack(frequencies, dim=1)} if frequencies else {})


def _positions(vit: Any) -> Callable[[int], Positions]:
    """What makes the positions of the attention in the block of an index."""
    rope, prefix = vit.rope, vit.num_prefix_tokens
    if rope is None:
        return lambda index: Positions()
    if isinstance(rope, RotaryEmbeddingMixed):
        # In prefix tokens all angles are 0: the rotation leaves them as they are.
        axes_2T = torch.stack([torch.cat((axis.new_zeros(prefix), axis)) for axis in (rope.t_x, rope.t_y)])
        return lambda index: MixedRotation(rope.freqs.detach()[:, index].clone(), axes_2T)
    # In training mode the positions may be shifted at random. A copy, because reading a shape leaves the model as it is.
    still_rope = copy.deepcopy(rope).eval()
    shape = {} if hasattr(rope, "feat_shape") else {"shape": vit.patch_embed.grid_size}
    table_P2K = still_rope.get_embed(**shape)
    sin_PK, cos_PK = table_P2K.chunk(2, dim=-1)
    width = sin_PK.shape[1]
    still = torch.cat((sin_PK.new_zeros(prefix, width), cos_PK.new_ones(prefix, width)), dim=1)
    table_T2K = torch.cat((still, table_P2K))
    half = bool(vit.blocks[0].attn.rotate_half)
    return lambda index: Rotation(table_T2K, half=half)


def _opened(block: nn.Module, positions: Positions, name: str) -> PositionalBlock:
    if type(block) is not EvaBlock:
        raise UnsupportedModelError(f"{name} is a {type(block).__name__} among blocks of another kind")
    return open_block(block, positions, name, _ATTENTION)
