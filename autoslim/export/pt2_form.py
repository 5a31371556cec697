"""`model.pt2`: torch.export's program, for any batch; `torch.export.load` reads it without autoslim and without timm."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autoslim.core.shape import ViTShape
from autoslim.export.artifact import SlimConfig
from autoslim.export.example import any_batch, example_images
from autoslim.export.feature_outputs import outputs_of

FILE = "model.pt2"


def write(model: nn.Module, config: SlimConfig, path: Path) -> None:
    exported, _ = outputs_of(model, config.classes)
    write_pt2(exported, config.shape, path)


def write_pt2(model: nn.Module, shape: ViTShape, path: Path) -> None:
    program = torch.export.export(model, (example_images(shape),), dynamic_shapes=(any_batch(),))
    torch.export.save(program, path)
