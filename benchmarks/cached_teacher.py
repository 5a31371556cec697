"""The teacher's logits, worked out once for all runs: those of one seed see the very same augmented batches.

What a run learns is unchanged; it only does not pay again for a pass that another has made.

Shapes: B batch, C classes, H and W pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoslim.core.files import replacing_file
from autoslim.methods.base import logits_of
from autoslim.training import TrialContext


class CachedTeacher(nn.Module):
    """Gives `model`'s logits (B, C) from `folder` where the same batch was seen before, in this process or in another.

    One file a batch, published by a rename, so that processes may share the folder. A pass that somebody watches, through a hook on
    one of the model's parts, is always made.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        super().__init__()
        self.model, self.folder = model, folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def blocks(self) -> Any:
        return self.model.blocks

    def forward(self, images_B3HW: Tensor) -> Tensor:
        if self._is_watched():
            return logits_of(self.model(images_B3HW))
        path = self.folder / f"{self._key(images_B3HW)}.npy"
        if path.is_file():
            return torch.from_numpy(np.load(path)).to(images_B3HW.device)
        # bfloat16 is unknown to numpy, and exact in float32.
        logits_BC = logits_of(self.model(images_B3HW)).float()
        with replacing_file(path) as partial, partial.open("wb") as file:
            np.save(file, logits_BC.detach().cpu().numpy())
        return logits_BC

    def _is_watched(self) -> bool:
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

    @staticmethod
    def _key(images_B3HW: Tensor) -> str:
        """The images, and the precision that the pass would be made in."""
        precision = (
            torch.get_autocast_dtype(images_B3HW.device.type) if torch.is_autocast_enabled(images_B3HW.device.type) else None
        )
        digest = hashlib.blake2b(f"{tuple(images_B3HW.shape)} {images_B3HW.dtype} {precision}".encode(), digest_size=16)
        digest.update(images_B3HW.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharingBench(TrialContext):
    """A bench whose teacher's logits are shared with other runs; teacher and students are as ever."""

    cached: CachedTeacher

    @classmethod
    def over(cls, context: TrialContext, folder: Path) -> SharingBench:
        """`folder` belongs to this dense model alone."""
        parts = {field.name: getattr(context, field.name) for field in dataclasses.fields(context)}
        return cls(**parts, cached=CachedTeacher(context.dense.module, folder).eval())

    def teacher_logits(self, images_B3HW: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(self.cached(images_B3HW)).float()
