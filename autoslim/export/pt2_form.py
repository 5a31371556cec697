"""`model.pt2`: torch.export's program, for any batch; `torch.export.load` reads it without autoslim and without timm."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autoslim.export.artifact import SlimConfig
from autoslim.export.example import any_batch, example_images

FILE = "model.pt2"


def write(model: nn.Module, config: SlimConfig, path: Path) -> None:
    program = torch.export.export(model, (example_images(config.shape),), dynamic_shapes=(any_batch(),))
    torch.export.save(program, path)
