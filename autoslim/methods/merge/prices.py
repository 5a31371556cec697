"""What merging costs beside the blocks, to the multiply-accumulate, and the modules that a latency table measures for it.

Shapes: N tokens that enter (prefix included), S patches that stay, G patches that go, D width, A the attention's width, E length of an
embedding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.base import ModuleFactory
from autoslim.methods.layers.groups import SizedTokens
from autoslim.methods.layers.merging import MERGING, MergeTokens, merging_prices
from autoslim.methods.merge.matching import MatchedMerge, Matching, embedding_width
from autoslim.methods.merge.spread import CHOICE, ChooseTokens, SpreadTokens, choice_price, compared_pairs
from autoslim.methods.patch_slimming.pyramid import Counts, removals

EMBEDDED_MERGING = "token merging by embeddings"
INFORMATION = "attention of merged tokens"
"""Names in a plan and in a latency table."""


def is_embedded(knobs: Knobs) -> bool:
    """Recipes older than the knob have no embedding."""
    return bool(knobs.get("embedding") == "learned")


def is_informed(knobs: Knobs) -> bool:
    """Recipes older than the knob know one criterion."""
    return bool(knobs.get("criteria") == "several")


def merge_prices(shape: ViTShape, plan: Plan, knobs: Knobs, counts: Counts) -> tuple[Extra, ...]:
    """All that is computed beside the blocks of `plan`, which is what earlier steps have left."""
    removed = removals(shape, counts)
    extras: list[Extra] = []
    if is_embedded(knobs):
        extras += (_embedded_price(shape, block, enter=enter, stay=stay) for block, (enter, stay) in removed.items())
    else:
        if knobs["places"] == "image":
            extras += (choice_price(shape, block, enter=enter, stay=stay) for block, (enter, stay) in removed.items())
        extras += merging_prices(shape, removed)
    if is_informed(knobs):
        extras += _information_prices(shape, plan, counts)
    return tuple(extras)


def _embedded_price(shape: ViTShape, block: int, *, enter: int, stay: int) -> Extra:
    """N D E for the embeddings, E for each pair that is compared and each that may join, and S G D for the sums of the groups."""
    length, joining = embedding_width(shape.dim), stay * (enter - stay)
    embeddings = (enter + shape.prefix_tokens) * shape.dim * length
    pairs = (compared_pairs(enter, stay) + joining) * length
    return Extra(
        name=EMBEDDED_MERGING,
        place=f"block {block}",
        matmuls=embeddings + pairs + joining * shape.dim,
        norms=0,
        params=shape.dim * length,
    )


def _information_prices(shape: ViTShape, plan: Plan, counts: Counts) -> Iterator[Extra]:
    """G D A for the queries of those that go, and G N A for their products with the keys; a block without attention has neither."""
    for block, (enter, stay) in removals(shape, counts).items():
        if width := plan.blocks[block].attention_width:
            row = shape.dim * width + (enter + shape.prefix_tokens) * width
            yield Extra(name=INFORMATION, place=f"block {block}", matmuls=(enter - stay) * row, norms=0)


def priced_modules() -> dict[str, ModuleFactory]:
    return {
        CHOICE: lambda shape, tokens, left: ChooseTokens(left, shape.prefix_tokens),
        MERGING: lambda shape, tokens, left: MergeTokens(left, shape.prefix_tokens),
        EMBEDDED_MERGING: lambda shape, tokens, left: EmbeddedMergeTokens(shape, left),
        INFORMATION: lambda shape, tokens, left: MoreQueries(shape.dim, shape.heads * shape.head_width, tokens, left),
    }


class EmbeddedMergeTokens(nn.Module):
    """The choice and the merging by embeddings alone, (B, N, D) -> (B, `tokens`, D)."""

    def __init__(self, shape: ViTShape, tokens: int) -> None:
        super().__init__()
        matching = Matching(shape.dim, embedded=True, informed=False)
        self.merge = MatchedMerge(SpreadTokens(tokens, shape.prefix_tokens), shape.prefix_tokens, matching)

    def forward(self, x_BND: Tensor) -> Tensor:
        merged: SizedTokens = self.merge(SizedTokens(x_BND, None))
        return merged.x_BND


class MoreQueries(nn.Module):
    """The queries of the tokens behind the first `left`, and their products with `tokens` keys: (B, N, D) -> (B, G, `tokens`).

    Buffers, not parameters: the weights are the block's.
    """

    def __init__(self, dim: int, width: int, tokens: int, left: int) -> None:
        super().__init__()
        self.left = left
        self.queries_DA: Tensor
        self.keys_AN: Tensor
        self.register_buffer("queries_DA", torch.ones(dim, width) / dim)
        self.register_buffer("keys_AN", torch.ones(width, tokens) / width)

    def forward(self, x_BND: Tensor) -> Tensor:
        weights_BGN: Tensor = (x_BND[:, self.left :] @ self.queries_DA @ self.keys_AN).softmax(dim=-1)
        return weights_BGN
