"""A teacher that is another model than the start of its student: which one can be, and how it sees the student's images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autoslim.core.shape import ViTShape
from autoslim.errors import RequestError
from autoslim.models.architecture import Preprocessing


class OtherTeacher(nn.Module):
    """`module` on images (B, 3, h, w) that are normalised for a student: normalised again for `module` itself, exactly.

    The crop stays the student's. Both models are for images of the same size (`check_teacher`).
    """

    def __init__(self, module: nn.Module, *, student: Preprocessing, own: Preprocessing) -> None:
        super().__init__()
        self.module = module
        mean, std, own_mean, own_std = (
            torch.tensor(values).view(3, 1, 1) for values in (student.mean, student.std, own.mean, own.std)
        )
        # (x std + mean - own mean) / own std in one product and one sum.
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        logits: Tensor = self.module(images_B3HW * self.scale + self.shift)
        return logits


def check_teacher(name: str, teacher: ViTShape, starts: Mapping[str, ViTShape]) -> None:
    """Raises RequestError where a start, by its label, takes images of another size: the teacher sees the student's batches."""
    for label, start in starts.items():
        if start.image_size != teacher.image_size:
            which = f"the model {label}" if label else "the model"
            raise RequestError(
                f"--teacher {name} is for images of {_size(teacher)}, but {which} is for {_size(start)}; "
                "allowed: the same size; --image-size sets one for all models"
            )


def _size(shape: ViTShape) -> str:
    return f"{shape.image_size[0]}x{shape.image_size[1]}"
