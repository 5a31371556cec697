"""What replaces timm's `model.blocks` in a slimmed model: a plain loop with room for a module in front of each block.

timm's `forward_features` calls `self.blocks(x)`, or one part of it after the other, and nothing else of it. So no timm code is copied and
no class is swapped, and the model pickles, exports and traces as before.

Where a module on the tokens goes:

- in front of a block: `Trunk(blocks, {index: pre_block})`; what it removes is gone for the attention, too;
- between a block's attention and its MLP: `mid_block.MidBlock`, installed in the place of the block;
- inside a block, for its queries alone: `rectangular_block.RectangularBlock`; removed tokens stay keys and values of this block.

Shapes: B batch, N tokens (prefix included), D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from autoslim.errors import UnsupportedModelError
from autoslim.methods.layers.stored_names import StoredNames
from autoslim.models.placed_tokens import PlacedTokens, Tokens
from autoslim.models.positional import has_positions


class Stage(StoredNames):
    """One block and `pre_block`, the module on the tokens in front of it (None: the tokens pass unchanged)."""

    stored_names: ClassVar[dict[str, str]] = {"pre_block": "step"}

    def __init__(self, block: nn.Module, pre_block: nn.Module | None) -> None:
        super().__init__()
        self.pre_block = pre_block
        self.block = block

    def forward(self, tokens: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None) -> Tokens:
        refuse_mask(attn_mask, is_causal)
        out: Tokens = self.compute(self.enter(tokens))
        return out

    def enter(self, tokens: Any) -> Any:
        """The tokens that the block gets."""
        return tokens if self.pre_block is None else self.pre_block(tokens)

    def compute(self, tokens: Any) -> Any:
        """What the block makes of them."""
        return self.block(tokens)


class Trunk(nn.Module):
    """Stages in sequence; `pre_blocks` maps a block's index to the module in front of it.

    Iterable, so that timm's gradient checkpointing works on it as on a `Sequential`.
    """

    def __init__(self, blocks: list[nn.Module], pre_blocks: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage(block, pre_blocks.get(index)) for index, block in enumerate(blocks))

    def forward(self, x_BND: Tensor) -> Tensor:
        for part in self:
            x_BND = part(x_BND)
        return x_BND

    def __iter__(self) -> Iterator[Any]:
        """A flat sequence of steps, as timm's gradient checkpointing needs; where blocks ask for places, tokens carry them along."""
        if not any(has_positions(block) for block in blocks_in(self)):
            yield from self.stages
            return
        yield with_places
        yield from self.stages
        yield tokens_alone

    def __len__(self) -> int:
        return len(self.stages)

    def final_norm(self, model: Any) -> nn.Module:
        """The norm of the model's tokens behind the last block."""
        norm: nn.Module = model.norm
        return norm


def with_places(x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None) -> PlacedTokens:
    """The start of a trunk: all the image's tokens."""
    refuse_mask(attn_mask, is_causal)
    return PlacedTokens(x_BND, None)


def tokens_alone(tokens: Any, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None) -> Tensor:
    """The end of a trunk whose tokens have carried something along."""
    x_BND: Tensor = tokens.x_BND
    return x_BND


def run_block(block: nn.Module, tokens: Any, *, mask: Tensor | None) -> Tensor:
    """What a block makes of tokens that carry something along, `x_BND` and `places` among it."""
    if not has_positions(block):
        out: Tensor = block(tokens.x_BND, attn_mask=mask)
        return out
    known: PlacedTokens = block(PlacedTokens(tokens.x_BND, tokens.places), attn_mask=mask)
    return known.x_BND


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a dense or a slimmed model, without the modules in front of them."""
    trunk: Any = model.blocks
    return blocks_in(trunk) if isinstance(trunk, Trunk) else list(trunk)


def blocks_in(trunk: Trunk) -> list[nn.Module]:
    """The blocks of a trunk."""
    return [stage.block for stage in trunk.stages]  # type: ignore[misc]


def pre_blocks_of(model: nn.Module) -> dict[int, nn.Module]:
    """The pre-blocks of a slimmed model by the index of the block they precede."""
    trunk: Any = model.blocks
    if not isinstance(trunk, Trunk):
        return {}
    return {index: stage.pre_block for index, stage in enumerate(trunk.stages) if stage.pre_block is not None}  # type: ignore[misc]


def refuse_mask(attn_mask: Tensor | None, is_causal: bool) -> None:
    """Raises UnsupportedModelError when a caller passes an attention mask."""
    if attn_mask is not None or is_causal:
        raise UnsupportedModelError("a slimmed model takes no attention mask: its tokens are no longer those of the image")
