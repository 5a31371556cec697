"""Which patches take part in which block of a slimmed model, seen on real images.

Shapes: B images, T tokens of the image (prefix included), N tokens that enter a block, K tokens behind it, P patches, L blocks.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import logits_of
from autoslim.methods.layers.token_origins import head_input, tokens_behind_blocks
from autoslim.models.registry import family_of

_WHOLE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survival:
    """`weights` (L + 1, B, P): how much of each patch the keys and values of block l are made of; the last, what reaches the head.

    It is a column sum of the composed map: 1 for a patch that is there, 0 for one that was dropped, anything else where tokens are
    mixed. `logits` (B, classes) are the model's own.
    """

    weights: Tensor
    logits: Tensor

    @property
    def mixed(self) -> bool:
        """Whether some patch is neither there nor gone."""
        return bool(((self.weights - self.weights.round()).abs() > _WHOLE).any() or (self.weights > 1 + _WHOLE).any())

    @property
    def lives(self) -> Tensor:
        """In how many blocks each patch takes part (B, P); a patch that is a part of its token counts in part."""
        return self.weights[:-1].clamp(max=1).sum(dim=0)

    @property
    def counts(self) -> Tensor:
        """How many patches take part in each block (L + 1, B); where tokens are mixed, how many tokens they make."""
        return self.weights.sum(dim=2).round().long()


@torch.no_grad()
def follow(model: nn.Module, images_B3hw: Tensor, shape: ViTShape) -> Survival:
    """Runs `model` and follows the patches through it.

    Raises:
        UnsupportedModelError: when a module changes the number of tokens and has no `token_map`, or tokens are computed in windows.
    """
    if shape.windowed:
        raise UnsupportedModelError("this model computes its attention in windows, so that all patches take part in every block")
    model.eval()
    behind = list(tokens_behind_blocks(model, family_of(model).embed(model, images_B3hw)))
    maps = [*(block.entered_BNT for block in behind), behind[-1].origin_BKT]
    whole_BP = torch.ones(len(images_B3hw), shape.patches)
    weights = [whole_BP if map_BKT is None else map_BKT.float().sum(dim=1)[:, shape.prefix_tokens :] for map_BKT in maps]
    head: Any = model.forward_head
    return Survival(weights=torch.stack(weights), logits=logits_of(head(head_input(model, behind[-1]))).float())
