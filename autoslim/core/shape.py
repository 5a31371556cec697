"""`ViTShape`: a dense vision transformer in the numbers that determine its FLOPs and parameters."""

from __future__ import annotations

import dataclasses

from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTShape(Record):
    """The shape of a dense model, made by `autoslim.models.read_shape`; all counts are per image.

    `image_size` is (height, width) in pixels, `grid` in patches. `patch_inputs` is channels x patch height x patch width. `dim` is the
    model's width, `hidden` that of its MLPs. `classifiers` is 2 for a distilled DeiT. `pool` is timm's `global_pool`. The four norm flags
    say which LayerNorms there are besides the two in each block. `params` counts the dense model's parameters (0 in shapes stored by
    older versions); the two bias flags say which biases a width unit has. `class_token` says whether the first prefix token, if there is
    one, is a class token; False where all of them are registers.
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
    class_token: bool = True

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Patches plus prefix tokens (class, distillation, registers)."""
        return self.patches + self.prefix_tokens
