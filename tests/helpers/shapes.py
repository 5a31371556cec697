"""A model's shape without the model: two blocks over a grid that is no square."""

from __future__ import annotations

from autoslim.core.shape import ViTShape

SHAPE = ViTShape(
    image_size=(32, 48),
    grid=(4, 6),
    patch_inputs=192,
    prefix_tokens=1,
    depth=2,
    dim=48,
    heads=3,
    head_width=16,
    hidden=192,
    classes=10,
    classifiers=1,
    pool="token",
    pre_norm=False,
    final_norm=True,
    pooled_norm=False,
    qk_norm=False,
)
