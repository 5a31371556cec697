"""The loss of a model without a classifier: its features against the dense model's.

Shapes: B images, T tokens of the image (prefix included), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.methods.layers.backbone import Features, features
from autoslim.methods.layers.token_trunk import Trunk
from autoslim.methods.losses import channel_variance

Variance = Callable[[Tensor], Tensor]

_LEAST_VARIANCE = 1e-6
"""Keeps the error finite where all features are equal."""


def feature_loss(student: nn.Module, teacher: nn.Module, images_B3HW: Tensor, *, variance: Variance = channel_variance) -> Tensor:
    """The sum, over the pooled features and the tokens at their places, of 1 - cosine and of the squared error.

    A token that the student has dropped or merged is restored (`autoslim.features`). The squared error is divided by the variance of the
    teacher's features, so that both terms mean the same for every model: a constant has an error of 1. `variance` is that of the
    whole batch.
    """
    with torch.no_grad():
        target = features(teacher, images_B3HW)
    own = _features(student, images_B3HW)
    return _distance(own.pooled, target.pooled, variance) + _distance(own.tokens, target.tokens, variance)


def _features(student: nn.Module, images_B3HW: Tensor) -> Features:
    if isinstance(student.blocks, Trunk | nn.Sequential):
        return features(student, images_B3HW, restore_tokens=True)
    # A form for training alone, such as that with soft lives, has all the tokens.
    vit: Any = student
    tokens_BTD = type(vit).forward_features(vit, images_B3HW)
    places_T = torch.arange(tokens_BTD.shape[1], device=tokens_BTD.device)
    return Features(vit.forward_head(tokens_BTD, pre_logits=True), tokens_BTD, places_T.expand(len(tokens_BTD), -1))


def _distance(own: Tensor, target: Tensor, variance: Variance) -> Tensor:
    """Of features (..., D)."""
    own, target = own.float(), target.float()
    angle = 1 - functional.cosine_similarity(own, target, dim=-1).mean()
    return angle + functional.mse_loss(own, target) / (variance(target.flatten(0, -2)).mean() + _LEAST_VARIANCE)
