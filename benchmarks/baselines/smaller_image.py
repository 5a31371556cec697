"""The same model on a smaller image: what a user would try first.

The image is resized inside the model, bicubic with antialiasing, as two small matrix products, which are priced; the position embedding
is resampled alike. The patches keep their size, so there are fewer of them. The grid is the largest within the budget, as close to the
image's own aspect as that allows.

Shapes: B batch, H and W pixels of the given image, h and w of the smaller one, N patches, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.knob import Knob, Ranges
from baselines.dense import PruneThenFinetune

_MOST_SQUEEZED = 4 / 3
"""How much more one side may be shrunk than the other, to use more of the budget."""


class SmallerPatches(nn.Module):
    """Takes a timm `PatchEmbed`'s projection over."""

    def __init__(self, patch_embed: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        self.proj = patch_embed.proj
        self.img_size, self.patch_size, self.grid_size = patch_embed.img_size, patch_embed.patch_size, grid
        sides = zip(self.img_size, grid, self.patch_size, strict=True)
        rows_hH, columns_wW = (resizing(side, count * patch) for side, count, patch in sides)
        like = patch_embed.proj.weight
        self.register_buffer("rows", rows_hH.to(like))
        self.register_buffer("columns", columns_wW.to(like))

    def forward(self, images_B3HW: Tensor) -> Tensor:
        rows_hH: Any = self.rows
        columns_wW: Any = self.columns
        narrow_B3wH = functional.linear(images_B3HW, columns_wW).transpose(2, 3)
        small_B3hw = functional.linear(narrow_B3wH, rows_hH).transpose(2, 3)
        tokens_BND: Tensor = self.proj(small_B3hw).flatten(2).transpose(1, 2)
        return tokens_BND


def resizing(size: int, new: int) -> Tensor:
    """The matrix (new, size) of a bicubic, antialiased resize along one side."""
    identity = torch.eye(size, dtype=torch.float64)[None, None]
    return functional.interpolate(identity, size=(new, size), mode="bicubic", antialias=True)[0, 0]


class SmallerImage(PruneThenFinetune):
    """Knob `keep`, the share of the patches, is solved onto the budget."""

    name = "smaller_image"
    ranges: ClassVar[Ranges] = {
        "keep": Knob(
            kind="float",
            help="share of the patches that the smaller image has, at most",
            default=0.5,
            low=0.05,
            high=1.0,
            cost_sign=1,
        ),
    }

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        rows, columns = grid_within(shape.grid, knobs["keep"])
        if (rows, columns) == shape.grid:
            return plan
        patches = rows * columns
        (height, width), patch = shape.image_size, _patch(shape)
        resize = 3 * height * columns * patch[1] * (width + rows * patch[0])
        fewer = (shape.patches - patches) * shape.patch_inputs * shape.dim
        extras = (
            Extra(name="resizing", place="stem", matmuls=resize, norms=0),
            # Nor do they have a position.
            Extra(
                name="patches that are not embedded",
                place="stem",
                matmuls=-fewer,
                norms=0,
                params=-(shape.patches - patches) * shape.dim,
            ),
        )
        tokens = (patches + shape.prefix_tokens,) * shape.depth
        return plan.with_tokens(tokens).replace(extras=(*plan.extras, *extras))

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        grid = grid_within(shape.grid, knobs["keep"])
        if grid != shape.grid:
            vit: Any = model
            vit.patch_embed = SmallerPatches(vit.patch_embed, grid)
            prefix = vit.pos_embed.shape[1] - shape.patches
            smaller = resample_abs_pos_embed(vit.pos_embed.data, list(grid), list(shape.grid), num_prefix_tokens=prefix)
            vit.pos_embed = nn.Parameter(smaller)
        return model


def _patch(shape: ViTShape) -> tuple[int, int]:
    return shape.image_size[0] // shape.grid[0], shape.image_size[1] // shape.grid[1]


def grid_within(grid: tuple[int, int], keep: float) -> tuple[int, int]:
    """The grid of the most patches, at most `keep` of all; of equal ones the least squeezed. At least one patch."""
    limit = keep * grid[0] * grid[1] + 1e-6
    found, best = (1, 1), (0, 0.0)
    for rows in range(1, grid[0] + 1):
        for columns in range(1, grid[1] + 1):
            shrunk = (rows / grid[0], columns / grid[1])
            squeeze = max(shrunk) / min(shrunk)
            if rows * columns <= limit and squeeze <= _MOST_SQUEEZED and (rows * columns, -squeeze) > best:
                found, best = (rows, columns), (rows * columns, -squeeze)
    return found
