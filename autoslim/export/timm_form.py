"""`timm/`: the model in timm's own hub format, where timm's constructor can say it; it then loads with timm alone.

timm's `VisionTransformer` has one number of heads, one head width and one MLP ratio for all blocks, and computes every token in every
block. That leaves the models that ViT-Slim cuts evenly through the MLPs, and those that were not cut.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

from autoslim.errors import ExportError
from autoslim.export.artifact import SlimConfig
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.models import Architecture, write_folder

FOLDER = "timm"


def write(model: nn.Module, config: SlimConfig, path: Path) -> None:
    """Raises ExportError saying what timm cannot say."""
    architecture = expressed(config)
    plain: Any = copy.deepcopy(model)
    plain.blocks = nn.Sequential(*blocks_of(plain))
    # Strictly: what timm builds from these arguments has these very weights.
    twin = architecture.build()
    twin.load_state_dict(plain.state_dict(), strict=True)
    write_folder(path, twin, architecture, preprocessing=config.preprocessing, classes=config.classes)


def expressed(config: SlimConfig) -> Architecture:
    shape, plan = config.shape, config.plan
    first = plan.blocks[0]
    if plan.extras:
        raise ExportError(f"timm has no {plan.extras[0].name}")
    for index, block in enumerate(plan.blocks):
        if min(block.tokens_q, block.tokens_kv, block.tokens_mlp) < shape.tokens:
            raise ExportError(f"timm computes every token in every block; block {index} has {block.tokens_mlp} of {shape.tokens}")
        if (block.heads, block.head_width) != (shape.heads, shape.head_width):
            raise ExportError(
                f"timm derives a head's width from the model's; block {index} has {block.heads} heads of {block.head_width}"
            )
        if block.hidden != first.hidden:
            raise ExportError(f"timm has one MLP width for all blocks; block {index} has {block.hidden}, block 0 {first.hidden}")
    arguments = {**config.architecture.args, "mlp_ratio": _ratio(first.hidden, shape.dim)}
    return Architecture(name=config.architecture.name, args=arguments)


def _ratio(hidden: int, dim: int) -> float:
    """int(dim * ratio) is `hidden` for every float of this form."""
    return (hidden + 0.5) / dim
