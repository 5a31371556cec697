"""Blocks that compute some of their tokens only: rectangular attention.

Queries, residual and MLP of the tokens that a `TokenSelector` selects; keys and values of all that enter. The result equals the same
rows of the whole block. With the prefix tokens alone in the last block, this is the class query that any method may end with.

Shapes: B batch, N tokens that enter, Q tokens that are computed, D width, H heads, K head width, E heads times head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.stored_names import StoredNames
from autoslim.methods.layers.sublayer import RemovedSublayer
from autoslim.methods.layers.token_selector import FirstTokens, TokenSelector
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.models.placed_tokens import PlacedTokens, TokenIndices, Tokens, as_given, gather_tokens, placed, places_at
from autoslim.models.positional import attend


class RectangularBlock(StoredNames):
    """Takes over a timm block's parts under their own names; `selector` sees the tokens as they come in."""

    stored_names: ClassVar[dict[str, str]] = {"selector": "pick"}

    def __init__(self, block: Any, selector: TokenSelector) -> None:
        super().__init__()
        self.selector = selector
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, tokens: Tokens, attn_mask: Tensor | None = None) -> Tokens:
        """`attn_mask` is the additive mask (B, 1, 1, N) of an adaptive trunk; `Stage` refuses a caller's."""
        x_BND, places = placed(tokens)
        rows = self.selector.rows(x_BND)
        x_BQD = block_rows(self, x_BND, rows, attn_mask, places=places)
        return as_given(PlacedTokens(x_BQD, places_at(places, rows)), tokens)

    def token_map(self, tokens: Tensor | PlacedTokens) -> Tensor:
        return self.selector.token_map(tokens)


def block_rows(
    block: Any,
    x_BND: Tensor,
    rows: TokenIndices,
    mask_B11N: Tensor | None = None,
    residual_BQD: Tensor | None = None,
    *,
    places: TokenIndices | None = None,
) -> Tensor:
    """The tokens `rows` (B, Q, D) of a timm block's output; `block` has timm's parts under timm's names.

    `residual_BQD` takes the place of these tokens in the block's residual sum. `places` are those of `x_BND`.
    """
    # Every token that enters is a key, so that all are normalised; the queries are rows of the same result.
    attended_BQD = rectangular_attention(block.attn, block.norm1(x_BND), rows, mask_B11N, places=places)
    return add_branches(block, gather_tokens(x_BND, rows) if residual_BQD is None else residual_BQD, attended_BQD)


def add_branches(block: Any, residual_BQD: Tensor, attended_BQD: Tensor) -> Tensor:
    """What a timm block makes of tokens (B, Q, D) whose attention is known: both branches of its residual sum added."""
    x_BQD = residual_BQD + block.drop_path1(block.ls1(attended_BQD))
    out: Tensor = x_BQD + block.drop_path2(block.ls2(block.mlp(block.norm2(x_BQD))))
    return out


def rectangular_attention(
    attention: Any, x_BND: Tensor, rows: TokenIndices, mask_B11N: Tensor | None = None, *, places: TokenIndices | None = None
) -> Tensor:
    """timm's `Attention` with the queries of the tokens `rows` and the keys and values of all of `x_BND`: (B, Q, D)."""
    if isinstance(attention, RemovedSublayer):
        constant_BQD: Tensor = attention(gather_tokens(x_BND, rows))
        return constant_BQD
    return attend(attention, x_BND, rows=rows, places=places, mask=mask_B11N)


def install_rectangular(model: nn.Module, blocks: list[nn.Module], selectors: Mapping[int, TokenSelector]) -> nn.Module:
    """Gives each block in `selectors` its selector: inside, or in front of a block without attention."""
    parts: list[nn.Module] = []
    steps: dict[int, nn.Module] = {}
    for number, block in enumerate(blocks):
        parts.append(block)
        if number not in selectors:
            continue
        # Without attention there are no keys for which the block would have to see the removed patches.
        if isinstance(block.attn, RemovedSublayer):
            steps[number] = selectors[number]
        else:
            parts[-1] = RectangularBlock(block, selectors[number])
    return install(model, Trunk(parts, steps))


def class_query_last(model: nn.Module, prefix_tokens: int) -> nn.Module:
    """Lets the last block compute the prefix tokens alone, in place; a head with pooling `token` reads nothing else."""
    trunk: Any = model.blocks
    if not isinstance(trunk, Trunk):
        trunk = Trunk(blocks_of(model), {})
        install(model, trunk)
    last: Any = trunk.stages[-1]
    # The block alone is replaced: a step in front of it stays.
    last.block = RectangularBlock(last.block, FirstTokens(prefix_tokens))
    return model
