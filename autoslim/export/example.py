"""The inputs that exporters trace a model with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoslim.core.shape import ViTShape


def example_images(shape: ViTShape) -> Tensor:
    """Zeros (2, 3, height, width); exporters take a batch size of one for a constant."""
    return torch.zeros(2, 3, *shape.image_size)


def any_batch() -> dict[int, Any]:
    return {0: torch.export.Dim("batch", min=1)}
