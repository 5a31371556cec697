"""timm's `VisionTransformerRelPos`: ViTs without absolute positions, whose attention adds a bias for each offset between two patches.

A small MLP in every block makes the biases from the offsets, as in Swin V2. In the open model each attention knows the places of its
tokens (`positional`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from timm.layers import Mlp, PatchEmbed, RelPosMlp
from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
    VisionTransformerRelPos,
    checkpoint_filter_fn,
)
from torch import Tensor, nn

from autoslim.core.shape import BlockShape
from autoslim.errors import UnsupportedModelError
from autoslim.models.blocks import read_block
from autoslim.models.opened_block import open_attention
from autoslim.models.placed_tokens import TokenIndices
from autoslim.models.positional import PositionalBlock, Positions, biases_at
from autoslim.models.vision_transformer import PlainViT

_PARTS = ("norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2")
"""Of a block, in the order in which timm lists parameters."""


class OffsetBias(Positions):
    """A bias that `mlp` makes of the offset between two patches, for each head; none where a prefix token is one of the two.

    `offsets_RS2` are the offsets along both axes that there are, on a logarithmic scale; `index_TT` is the number of each pair's, counted
    from 0 in reading order, and that behind the last one for a pair with a prefix token.
    """

    asks_places = True

    def __init__(self, mlp: Mlp, offsets_RS2: Tensor, index_TT: Tensor) -> None:
        super().__init__()
        self.mlp = mlp
        self.offsets: Tensor
        self.index: Tensor
        self.register_buffer("offsets", offsets_RS2, persistent=False)
        self.register_buffer("index", index_TT, persistent=False)

    @property
    def prices(self) -> dict[str, int]:
        """The fields of `BlockShape` that describe the MLP."""
        first, last = self.mlp.fc1, self.mlp.fc2
        offsets = self.offsets.numel() // 2
        return {
            "head_params": last.in_features + 1,
            "head_matmuls": offsets * last.in_features,
            "shared_params": first.weight.numel() + first.bias.numel(),
            "shared_matmuls": offsets * first.weight.numel(),
        }

    def bias(self, of_queries: TokenIndices | None, of_keys: TokenIndices | None, tokens: int) -> Tensor:
        table_RH = self._table()
        return biases_at(torch.cat((table_RH, torch.zeros_like(table_RH[:1]))), self.index, of_queries, of_keys, tokens)

    def _table(self) -> Tensor:
        """What timm's MLP computes, (offsets, heads). Its dropout is of no image, so that several ranks draw the same, not a share each."""
        hidden = self.mlp.act(self.mlp.fc1(self.offsets))
        dropped = self.mlp.drop1.p if self.training else 0.0
        if dropped > 0:
            hidden = hidden * (torch.rand_like(hidden) >= dropped) / (1 - dropped)
        table_RH: Tensor = self.mlp.fc2(hidden).flatten(0, 1)
        return table_RH

    def of_heads(self, heads: Sequence[int]) -> OffsetBias:
        mlp, last = copy.deepcopy(self.mlp), self.mlp.fc2
        mlp.fc2 = nn.Linear(last.in_features, len(heads), device=last.weight.device, dtype=last.weight.dtype)
        mlp.fc2.weight.data.copy_(last.weight.data[list(heads)])
        mlp.fc2.bias.data.copy_(last.bias.data[list(heads)])
        return OffsetBias(mlp, self.offsets, self.index)


class RelPosFamily(PlainViT):
    """Blocks whose positions each has for itself, with their norms in front of their sub-layers or behind them."""

    classes: ClassVar[tuple[type[nn.Module], ...]] = (VisionTransformerRelPos,)
    modules: ClassVar[tuple[str, ...]] = ("vision_transformer_relpos",)
    classifiers: ClassVar[tuple[str, ...]] = ("head.",)
    stems: ClassVar[tuple[type[nn.Module], ...]] = (PatchEmbed,)
    filter_checkpoint: ClassVar[Callable[..., dict[str, Tensor]]] = checkpoint_filter_fn

    def blocks_of(self, model: nn.Module) -> list[nn.Module]:
        """The blocks as they are in the open model, made from the model's parts."""
        vit: Any = model
        if vit.shared_rel_pos is not None:
            raise UnsupportedModelError("shared_rel_pos: relative positions that all blocks share are not supported")
        return [_opened(block, vit.num_prefix_tokens, f"blocks.{index}") for index, block in enumerate(vit.blocks)]

    def read_block(self, block: nn.Module, name: str, tokens: int) -> BlockShape:
        part: Any = block
        return read_block(block, name, tokens).replace(**part.attn.positions.prices)

    def embed(self, model: nn.Module, images_B3HW: Tensor) -> Tensor:
        vit: Any = model
        patches_BPD: Tensor = vit.patch_embed(images_B3HW)
        if vit.cls_token is None:
            return patches_BPD
        return torch.cat((vit.cls_token.expand(patches_BPD.shape[0], -1, -1), patches_BPD), dim=1)

    def pool_reads_prefix(self, vit: Any) -> bool:
        return False

    def open(self, model: nn.Module) -> nn.Module:
        model.blocks = nn.Sequential(*self.blocks_of(model))
        return model

    def timm_state(self, model: nn.Module) -> dict[str, Tensor]:
        return {name.replace(".attn.positions.", ".attn.rel_pos."): value for name, value in model.state_dict().items()}


def _opened(block: Any, prefix: int, name: str) -> PositionalBlock:
    # A block of an open model, whose shape is read again.
    if isinstance(block, PositionalBlock):
        return block
    if type(block) not in (RelPosBlock, ResPostRelPosBlock):
        raise UnsupportedModelError(f"{name} is a {type(block).__name__}, not timm's RelPosBlock or ResPostRelPosBlock")
    positions = _positions(block.attn.rel_pos, prefix, name)
    # Where norms are behind, they take the place of the scales.
    parts = {part: getattr(block, part, None) or nn.Identity() for part in _PARTS}
    parts["attn"] = open_attention(block.attn, positions, name, (RelPosAttention,))
    return PositionalBlock(parts, norms_behind=type(block) is ResPostRelPosBlock).train(block.training)


def _positions(made: Any, prefix: int, name: str) -> OffsetBias:
    if type(made) is not RelPosMlp or not isinstance(made.bias_act, nn.Identity):
        raise UnsupportedModelError(f"{name}.attn.rel_pos is a {type(made).__name__}, not timm's plain RelPosMlp")
    index_PP = made.relative_position_index.view(made.window_area, made.window_area)
    # Pairs with a prefix token are one kind more, behind those of all offsets.
    none = made.rel_coords_log.numel() // 2
    index_TT = index_PP.new_full((made.window_area + prefix,) * 2, none)
    index_TT[prefix:, prefix:] = index_PP
    return OffsetBias(made.mlp, made.rel_coords_log, index_TT)
