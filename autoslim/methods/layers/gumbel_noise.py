"""Noise on scores in training, so that patches near the border between staying and going are seen on both sides of it.

Shapes: B batch, P patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MEAN = 0.5772156649
"""Of Gumbel's distribution (Euler's constant): scores keep their mean."""


class GumbelNoise(nn.Module):
    """Scores (B, P) plus `scale` times Gumbel noise in training, and as they are otherwise.

    The k highest of noisy scores f are k draws without replacement in proportion to exp(f / scale) (Kool et al., 2019, arXiv 1903.06059).
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, score_BP: Tensor) -> Tensor:
        if not self.training or self.scale == 0:
            return score_BP
        # In single precision at least: half precision would round many draws to one.
        exact_BP = score_BP.to(torch.promote_types(score_BP.dtype, torch.float32))
        gumbel_BP = -torch.empty_like(exact_BP).exponential_().log()
        return exact_BP + self.scale * (gumbel_BP - _MEAN)
