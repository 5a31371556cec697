"""Norms inside a sub-layer: behind the attention or the activation, in timm's slots `attn.norm` and `mlp.norm`.

Such a norm runs over the units that width methods remove. What is left is the norm of the others: its mean and deviation are theirs
alone. A gate of 0 therefore takes a unit out of both, so that the gated model computes what the cut one does.

Shapes: B batch, N tokens, U units.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class GatedNorm(nn.Module):
    """A norm over the units (B, N, U) whose gate is not 0, times one gate per unit."""

    def __init__(self, norm: Any, zeta: nn.Parameter) -> None:
        super().__init__()
        self.norm = norm
        self.zeta = zeta

    def forward(self, x_BNU: Tensor) -> Tensor:
        gate_U, norm = self.zeta.flatten(), self.norm
        # No gradient passes through the choice: a gate is felt by what it multiplies.
        there_U = (gate_U.detach() != 0).to(x_BNU.dtype)
        count = there_U.sum()
        if isinstance(norm, nn.LayerNorm):
            x_BNU = x_BNU - (x_BNU * there_U).sum(dim=-1, keepdim=True) / count
        square_BN1 = (x_BNU.square() * there_U).sum(dim=-1, keepdim=True) / count
        normed_BNU: Tensor = x_BNU * (square_BN1 + norm.eps).rsqrt() * norm.weight
        if getattr(norm, "bias", None) is not None:
            normed_BNU = normed_BNU + norm.bias
        return normed_BNU * gate_U


def norm_in(slot: nn.Module) -> nn.Module | None:
    """timm's norm in one of its slots, also under a gate; None where there is no norm."""
    if isinstance(slot, GatedNorm):
        inner: nn.Module = slot.norm
        return inner
    # A norm has a width; an identity and a gate have none.
    return slot if hasattr(slot, "normalized_shape") else None


def narrow_norm(norm: Any, kept_U: Tensor) -> nn.Module:
    """The norm over the units `kept_U` alone (indices), with their scales and shifts."""
    narrow = copy.deepcopy(norm)
    for name in ("weight", "bias"):
        if getattr(norm, name, None) is not None:
            setattr(narrow, name, nn.Parameter(getattr(norm, name).detach()[kept_U].clone()))
    narrow.normalized_shape = (len(kept_U),)
    return narrow  # type: ignore[no-any-return]


def empty_norm(slot: nn.Module, width: int) -> nn.Module:
    """For the slot of a layer with `width` units: a norm with the settings of the one in `slot`, or nothing as there."""
    norm: Any = norm_in(slot)
    return nn.Identity() if norm is None else narrow_norm(norm, torch.arange(width, device=norm.weight.device))
