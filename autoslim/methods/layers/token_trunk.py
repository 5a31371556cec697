"""What replaces timm's `model.blocks` in a slimmed model: a plain loop with room for a step in front of each block.

timm's `forward_features` calls `self.blocks(x)` and nothing else of it, so no timm code is copied and no class is swapped; the
model pickles, exports and traces as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from torch import Tensor, nn

from autoslim.errors import UnsupportedModelError


class Stage(nn.Module):
    """One block and the step on the tokens that goes before it (None: nothing)."""

    def __init__(self, block: nn.Module, step: nn.Module | None) -> None:
        super().__init__()
        self.step = step
        self.block = block

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_mask(attn_mask, is_causal)
        if self.step is not None:
            x_BND = self.step(x_BND)
        out: Tensor = self.block(x_BND)
        return out


class Trunk(nn.Module):
    """Stages in a row. Iterable, so that timm's gradient checkpointing works on it as on a `Sequential`."""

    def __init__(self, blocks: list[nn.Module], steps: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage(block, steps.get(index)) for index, block in enumerate(blocks))

    def forward(self, x_BND: Tensor) -> Tensor:
        for stage in self.stages:
            x_BND = stage(x_BND)
        return x_BND

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a dense or already slimmed model, steps left aside."""
    trunk: Any = model.blocks
    if isinstance(trunk, Trunk):
        return [stage.block for stage in trunk.stages]  # type: ignore[misc]
    return list(trunk)


def steps_of(model: nn.Module) -> dict[int, nn.Module]:
    """The token steps of a slimmed model by the block they stand before."""
    trunk: Any = model.blocks
    if not isinstance(trunk, Trunk):
        return {}
    return {index: stage.step for index, stage in enumerate(trunk.stages) if stage.step is not None}  # type: ignore[misc]


def install(model: nn.Module, trunk: nn.Module) -> nn.Module:
    """Puts `trunk` in the place of the model's blocks and refuses what a slimmed model cannot answer."""
    model.blocks = trunk
    model.forward_intermediates = _refuse_intermediates  # type: ignore[assignment]
    model.get_intermediate_layers = _refuse_intermediates  # type: ignore[assignment]
    return model


def refuse_mask(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise UnsupportedModelError("a slimmed model takes no attention mask: its tokens are not those of the image any more")


def _refuse_intermediates(*args: Any, **kwargs: Any) -> NoReturn:
    raise UnsupportedModelError("a slimmed model has no feature map per block: its tokens are not those of the image any more")
