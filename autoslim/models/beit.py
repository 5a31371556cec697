"""timm's `Beit`: BEiT and BEiTv2. (BEiT-3 is a `VisionTransformer`.)

Their attention adds a bias for each distance between two patches. In the open model it knows the places of its tokens (`positional`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from timm.layers import PatchEmbed
from timm.models.beit import Attention, Beit, Block, checkpoint_filter_fn
from torch import Tensor, nn

from autoslim.errors import UnsupportedModelError
from autoslim.models.opened_block import open_block, timm_names
from autoslim.models.positional import Positions, RelativeBias
from autoslim.models.vision_transformer import PlainViT

_TABLE = "attn.positions.table"


class BeitFamily(PlainViT):
    """Blocks with a table of relative positions each, or none."""

    classes: ClassVar[tuple[type[nn.Module], ...]] = (Beit,)
    modules: ClassVar[tuple[str, ...]] = ("beit",)
    classifiers: ClassVar[tuple[str, ...]] = ("head.",)
    stems: ClassVar[tuple[type[nn.Module], ...]] = (PatchEmbed,)
    filter_checkpoint: ClassVar[Callable[..., dict[str, Tensor]]] = checkpoint_filter_fn
    ratio_counts_rows: ClassVar[bool] = False

    def blocks_of(self, model: nn.Module) -> list[nn.Module]:
        vit: Any = model
        if vit.rel_pos_bias is not None:
            raise UnsupportedModelError("rel_pos_bias: relative positions that all blocks share are not supported")
        return [
            open_block(block, _positions(block.attn), f"blocks.{index}", (Attention,)) if type(block) is Block else block
            for index, block in enumerate(vit.blocks)
        ]

    def embed(self, model: nn.Module, images_B3HW: Tensor) -> Tensor:
        vit: Any = model
        patches_BPD = vit.patch_embed(images_B3HW)
        x_BTD = torch.cat((vit.cls_token.expand(patches_BPD.shape[0], -1, -1), patches_BPD), dim=1)
        embedded_BTD: Tensor = vit.pos_drop(x_BTD if vit.pos_embed is None else x_BTD + vit.pos_embed)
        return embedded_BTD

    def pool_reads_prefix(self, vit: Any) -> bool:
        return False

    def open(self, model: nn.Module) -> nn.Module:
        model.blocks = nn.Sequential(*self.blocks_of(model))
        return model

    def timm_state(self, model: nn.Module) -> dict[str, Tensor]:
        return {name.replace(_TABLE, "attn.relative_position_bias_table"): value for name, value in timm_names(model).items()}


def _positions(attention: Any) -> Positions:
    if attention.relative_position_bias_table is None:
        return Positions()
    return RelativeBias(attention.relative_position_bias_table.detach(), attention.relative_position_index)
