"""`timm/`: the model in timm's hub format, if timm's constructor can express it; timm alone then loads it.

timm's `VisionTransformer` has one number of heads, one head width and one MLP ratio for all blocks, and computes every token in every
block. It expresses models whose MLPs ViT-Slim has narrowed to one width, and models that were not slimmed.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoslim.core.plan import Plan
from autoslim.errors import ExportError
from autoslim.export.artifact import SlimConfig
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.models import Architecture, write_folder
from autoslim.models.registry import family_of

FOLDER = "timm"


def write(model: nn.Module, config: SlimConfig, path: Path) -> None:
    """Raises ExportError with what timm cannot express."""
    architecture = timm_architecture(config)
    plain: Any = copy.deepcopy(model)
    plain.blocks = nn.Sequential(*blocks_of(plain))
    # Strict: the model that timm builds from these arguments has exactly these weights.
    twin: Any = architecture.build()
    made = twin.blocks[0].mlp.fc2.in_features
    if made != config.plan.blocks[0].hidden:
        raise ExportError(f"timm rounds an MLP of {config.plan.blocks[0].hidden} units to {made} in this model")
    twin.load_state_dict(plain.state_dict(), strict=True)
    write_folder(path, twin, architecture, preprocessing=config.preprocessing, classes=config.classes)


def timm_architecture(config: SlimConfig) -> Architecture:
    """The constructor's arguments for `config`'s plan. Raises ExportError if there are none."""
    shape, plan = config.shape, config.plan
    first = plan.blocks[0]
    if plan.extras:
        raise ExportError(f"timm has no {plan.extras[0].name}")
    if plan == Plan.dense(shape):
        return config.architecture
    if shape.own_blocks:
        raise ExportError("timm's arguments set no widths of single blocks where the model's blocks differ")
    for index, block in enumerate(plan.blocks):
        if min(block.tokens_q, block.tokens_kv, block.tokens_mlp) < shape.tokens:
            raise ExportError(f"timm computes every token in every block; block {index} has {block.tokens_mlp} of {shape.tokens}")
        if (block.heads, block.head_width) != (shape.heads, shape.head_width):
            raise ExportError(
                f"timm derives a head's width from the model's; block {index} has {block.heads} heads of {block.head_width}"
            )
        if block.hidden != first.hidden:
            raise ExportError(f"timm has one MLP width for all blocks; block {index} has {block.hidden}, block 0 {first.hidden}")
    with torch.device("meta"):
        dense: Any = config.architecture.build()
    rows = first.hidden / family_of(dense).units_per_row(dense.blocks[0].mlp)
    arguments = {**config.architecture.args, "mlp_ratio": _ratio(rows, shape.dim)}
    return Architecture(name=config.architecture.name, args=arguments)


def _ratio(rows: float, dim: int) -> float:
    """A ratio for which timm's int(dim * ratio) is `rows`: the half keeps it off the rounding error."""
    return (rows + 0.5) / dim
