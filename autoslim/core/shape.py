"""`ViTShape`: what a dense vision transformer computes, in the numbers that decide its FLOPs."""

from __future__ import annotations

import dataclasses

from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTShape(Record):
    """Read off a dense model once (`autoslim.models.read_shape`); everything is per image.

    `patch_inputs` is channels x patch height x patch width; `classifiers` is 2 for a distilled DeiT.
    `pool` is timm's `global_pool`. The four norm flags say where LayerNorms stand besides the two in each block. `params` are the dense
    model's parameters (0 where an older version has written the shape); the two bias flags say what a width unit takes along.
    """

    image_size: tuple[int, int]
    grid: tuple[int, int]
    patch_inputs: int
    prefix_tokens: int
    depth: int
    dim: int
    heads: int
    head_width: int
    hidden: int
    classes: int
    classifiers: int
    pool: str
    pre_norm: bool
    final_norm: bool
    pooled_norm: bool
    qk_norm: bool
    params: int = 0
    qkv_bias: bool = True
    mlp_bias: bool = True

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Patches and prefix tokens (class, distillation, registers)."""
        return self.patches + self.prefix_tokens
