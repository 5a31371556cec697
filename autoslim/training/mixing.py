"""Mixup and CutMix: each image of a batch is mixed with its opposite number, image i with image B-1-i.

Which images are partners depends on the batch alone, and all pairs are mixed alike, so that several processes that share a batch
(`data.batch_share`) mix as one does.

Shapes: B batch, h and w pixels, P patches, C classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from timm.data.mixup import mixup_target
from torch import Tensor

from autoslim.core.recipe import TrainingSettings


def mix_batch(
    images_B3hw: Tensor, labels: Tensor, draw: np.random.Generator, training: TrainingSettings, *, classes: int
) -> tuple[Tensor, Tensor]:
    """The mixed images and their soft labels, by Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) as `training` has them.

    Labels are int64 (B,), or soft ones of image and patches (B, 1 + P, C). Without `classes` they stay as they are.
    """
    mixed_B3hw, share = mix(images_B3hw, draw, mixup=training.mixup, cutmix=training.cutmix)
    if labels.is_floating_point():
        # Those of image and patches, which the loss smooths. Only the dense model's training has them, and it has no CutMix, whose box
        # patches would have to follow.
        assert training.cutmix == 0, "labels of patches with CutMix"
        return mixed_B3hw, torch.lerp(labels, labels.flip(0), 1 - share)
    # Without classes the teacher sees the mixed image, and labels are not read.
    targets = mixup_target(labels, classes, share, training.label_smoothing) if classes else labels
    return mixed_B3hw, targets


def mix(images_B3hw: Tensor, draw: np.random.Generator, *, mixup: float, cutmix: float) -> tuple[Tensor, float]:
    """The mixed images, and the share of each that is its own: its label's weight.

    `mixup` and `cutmix` are the alphas of both, 0 for none; of both, one is drawn for each batch, with equal chances, as in DeiT's recipe.
    """
    # One draw fewer where there is no choice: recipes without CutMix draw the shares that they always did.
    cuts = cutmix > 0 and (mixup <= 0 or draw.random() < 0.5)
    alpha = cutmix if cuts else mixup
    share = float(draw.beta(alpha, alpha))
    if cuts:
        return _cut(images_B3hw, share, draw)
    return torch.lerp(images_B3hw, images_B3hw.flip(0), 1 - share), share


def _cut(images_B3hw: Tensor, share: float, draw: np.random.Generator) -> tuple[Tensor, float]:
    """CutMix (Yun et al., 2019): a box of about 1 - `share` of the area, at a random place, comes from the partner."""
    height, width = images_B3hw.shape[2:]
    side = math.sqrt(1 - share)
    top, bottom = _interval(height, int(height * side), draw)
    left, right = _interval(width, int(width * side), draw)
    mixed_B3hw = images_B3hw.clone()
    mixed_B3hw[:, :, top:bottom, left:right] = images_B3hw.flip(0)[:, :, top:bottom, left:right]
    # What lies outside the image and what rounding takes is not the partner's: the label follows the pixels.
    return mixed_B3hw, 1 - (bottom - top) * (right - left) / (height * width)


def _interval(have: int, length: int, draw: np.random.Generator) -> tuple[int, int]:
    """Both ends of a piece of `length` pixels around a random one of `have`; what lies outside is cut off."""
    start = int(draw.integers(have)) - length // 2
    return max(start, 0), min(start + length, have)
