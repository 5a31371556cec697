"""How close a slimmed model's features are to the dense model's: mean cosines, of pooled features and of patches at their places.

Shapes: B images of a batch, T tokens of the image (prefix included), P patches, D width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.record import Record
from autoslim.data import Loader
from autoslim.methods.layers.backbone import features
from autoslim.training.device import Precision, autocast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement(Record):
    """Mean cosines over `images`, each from -1 to 1: of the pooled features, and of the patches, restored to the image's whole grid."""

    pooled: float
    patches: float
    images: int

    @property
    def score(self) -> float:
        """Both in one number from 0 to 1, at which features agree in direction everywhere."""
        return max(0.0, (self.pooled + self.patches) / 2)


@torch.no_grad()
def agreement(slimmed: nn.Module, dense: nn.Module, loader: Loader, *, device: torch.device, precision: Precision) -> Agreement:
    """Both models on the loader's images.

    Raises:
        UnsupportedModelError: where the slimmed model has no patch left behind its last block.
    """
    slimmed.eval()
    dense.eval()
    totals, images = torch.zeros(2, dtype=torch.float64), 0
    with autocast(slimmed, device=device, precision=precision):
        for images_B3HW, _ in loader.epoch(0, device):
            cosines_B2 = cosines(slimmed, dense, images_B3HW)
            totals += cosines_B2.double().sum(dim=0).cpu()
            images += len(cosines_B2)
    pooled, patches = (totals / max(images, 1)).tolist()
    return Agreement(pooled=pooled, patches=patches, images=images)


def cosines(slimmed: nn.Module, dense: nn.Module, images_B3HW: Tensor) -> Tensor:
    """The cosine of each image's pooled features, and the mean one of its patches: (B, 2)."""
    own, target = (features(model, images_B3HW, restore_tokens=True) for model in (slimmed, dense))
    prefix = int(dense.num_prefix_tokens)  # type: ignore[arg-type]
    pooled_B = functional.cosine_similarity(own.pooled.float(), target.pooled.float(), dim=-1)
    patch_BP = functional.cosine_similarity(own.tokens[:, prefix:].float(), target.tokens[:, prefix:].float(), dim=-1)
    return torch.stack((pooled_B, patch_BP.mean(dim=1)), dim=1)
