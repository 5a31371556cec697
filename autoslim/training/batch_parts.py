"""A training batch in parts, which are computed one after the other where the memory is too small for the whole.

B images of the batch, b of a part, C classes, h and w pixels.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from autoslim.methods.base import logits_of


@dataclasses.dataclass(frozen=True)
class BatchPart:
    """The `rows` of a batch (B, 3, h, w)."""

    whole_B3HW: Tensor
    rows: slice

    @property
    def images_b3HW(self) -> Tensor:
        return self.whole_B3HW[self.rows]


def split_batch(images_B3HW: Tensor, parts: int) -> Iterator[BatchPart]:
    """So many parts, whose sizes differ by one image at most."""
    stop = 0
    for images_b3HW in images_B3HW.tensor_split(parts):
        start, stop = stop, stop + len(images_b3HW)
        yield BatchPart(images_B3HW, slice(start, stop))


class SoftLabels:
    """A part's logits (b, C) of the teacher, which `compute` gives for the whole batch when its first part asks.

    The teacher keeps no activations for a backward pass, so that it needs no parts: whole batches keep the device busier.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        self._compute = compute
        self._known: tuple[Tensor, Tensor] | None = None

    def __call__(self, part: BatchPart) -> Tensor:
        if self._known is None or self._known[0] is not part.whole_B3HW:
            self._known = part.whole_B3HW, self._compute(part.whole_B3HW)
        return self._known[1][part.rows]


class HalfTeacher(nn.Module):
    """A copy of `teacher` in bfloat16. Autocast, under which the teacher itself runs, converts every weight in every pass."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        # A copy: methods restore blocks of the dense model, which stays in float32.
        self.teacher = copy.deepcopy(teacher).to(torch.bfloat16)

    @torch.no_grad()
    def forward(self, images_B3HW: Tensor) -> Tensor:
        """The logits (B, C) in float32."""
        with torch.autocast(images_B3HW.device.type, enabled=False):
            return logits_of(self.teacher(images_B3HW.to(torch.bfloat16))).float()
