"""The teacher's logits, computed once for all runs, because runs of one seed see the same augmented batches.

Results do not change; a run saves the forward passes that another run has made.

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
    """Returns `model`'s logits (B, C), from `folder` where this or another process has computed them for the same batch.

    Each batch has one file, published by a rename, so that processes may share the folder. A model with hooks is always run, because the
    hooks need its activations.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        super().__init__()
        self.model, self.folder = model, folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def blocks(self) -> Any:
        return self.model.blocks

    def forward(self, images_B3HW: Tensor) -> Tensor:
        if self._has_hooks():
            return logits_of(self.model(images_B3HW))
        path = self.folder / f"{self._key(images_B3HW)}.npy"
        if path.is_file():
            return torch.from_numpy(np.load(path)).to(images_B3HW.device)
        # NumPy has no bfloat16, whose values are exact in float32.
        logits_BC = logits_of(self.model(images_B3HW)).float()
        with replacing_file(path) as partial, partial.open("wb") as file:
            np.save(file, logits_BC.detach().cpu().numpy())
        return logits_BC

    def _has_hooks(self) -> bool:
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

    @staticmethod
    def _key(images_B3HW: Tensor) -> str:
        """A digest of the images and of the precision of the forward pass."""
        precision = (
            torch.get_autocast_dtype(images_B3HW.device.type) if torch.is_autocast_enabled(images_B3HW.device.type) else None
        )
        digest = hashlib.blake2b(f"{tuple(images_B3HW.shape)} {images_B3HW.dtype} {precision}".encode(), digest_size=16)
        digest.update(images_B3HW.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedLogitsContext(TrialContext):
    """A TrialContext whose teacher's logits are shared with other runs."""

    cached: CachedTeacher

    @classmethod
    def over(cls, context: TrialContext, folder: Path) -> SharedLogitsContext:
        """`folder` must not be shared with another dense model."""
        parts = {field.name: getattr(context, field.name) for field in dataclasses.fields(context)}
        return cls(**parts, cached=CachedTeacher(context.dense.module, folder).eval())

    def teacher_logits(self, images_B3HW: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(self.cached(images_B3HW)).float()
