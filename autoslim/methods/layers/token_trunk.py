"""What replaces timm's `model.blocks` in a slimmed model: a plain loop with room for a module in front of each block.

timm's `forward_features` calls `self.blocks(x)` and nothing else of it. So no timm code is copied and no class is swapped, and the
model pickles, exports and traces as before.

Where a module on the tokens goes:

- in front of a block: `Trunk(blocks, {index: pre_block})`; what it removes is gone for the attention, too;
- between a block's attention and its MLP: `mid_block.MidBlock`, installed in the place of the block;
- inside a block, for its queries alone: `rectangular_block.RectangularBlock`; removed tokens stay keys and values of this block.

Shapes: B batch, N tokens (prefix included), D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NoReturn

from torch import Tensor, nn

from autoslim.errors import UnsupportedModelError
from autoslim.methods.layers.stored_names import StoredNames


class Stage(StoredNames):
    """One block and `pre_block`, the module on the tokens in front of it (None: the tokens pass unchanged)."""

    stored_names: ClassVar[dict[str, str]] = {"pre_block": "step"}

    def __init__(self, block: nn.Module, pre_block: nn.Module | None) -> None:
        super().__init__()
        self.pre_block = pre_block
        self.block = block

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_mask(attn_mask, is_causal)
        if self.pre_block is not None:
            x_BND = self.pre_block(x_BND)
        out: Tensor = self.block(x_BND)
        return out


class Trunk(nn.Module):
    """Stages in sequence; `pre_blocks` maps a block's index to the module in front of it.

    Iterable, so that timm's gradient checkpointing works on it as on a `Sequential`.
    """

    def __init__(self, blocks: list[nn.Module], pre_blocks: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage(block, pre_blocks.get(index)) for index, block in enumerate(blocks))

    def forward(self, x_BND: Tensor) -> Tensor:
        for stage in self.stages:
            x_BND = stage(x_BND)
        return x_BND

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a dense or a slimmed model, without the modules in front of them."""
    trunk: Any = model.blocks
    if isinstance(trunk, Trunk):
        return [stage.block for stage in trunk.stages]  # type: ignore[misc]
    return list(trunk)


def pre_blocks_of(model: nn.Module) -> dict[int, nn.Module]:
    """The pre-blocks of a slimmed model by the index of the block they precede."""
    trunk: Any = model.blocks
    if not isinstance(trunk, Trunk):
        return {}
    return {index: stage.pre_block for index, stage in enumerate(trunk.stages) if stage.pre_block is not None}  # type: ignore[misc]


def install(model: nn.Module, trunk: nn.Module) -> nn.Module:
    """Replaces the model's blocks by `trunk` and refuses the calls that a slimmed model cannot answer."""
    model.blocks = trunk
    # On the instance: timm's class, which other models share, stays as it is.
    model.forward_intermediates = _refuse_intermediates  # type: ignore[assignment]
    model.get_intermediate_layers = _refuse_intermediates  # type: ignore[assignment]
    return model


def refuse_mask(attn_mask: Tensor | None, is_causal: bool) -> None:
    """Raises UnsupportedModelError when a caller passes an attention mask."""
    if attn_mask is not None or is_causal:
        raise UnsupportedModelError("a slimmed model takes no attention mask: its tokens are no longer those of the image")


def _refuse_intermediates(*args: Any, **kwargs: Any) -> NoReturn:
    raise UnsupportedModelError("a slimmed model has no feature map per block: its tokens are no longer those of the image")
