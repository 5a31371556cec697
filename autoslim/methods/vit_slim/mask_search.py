"""ViT-Slim's masks while they are trained, and their l1 norms.

arXiv 2201.00814, section 3: one mask value per head dimension, shared by queries, keys and values; one per hidden unit, behind the
activation; one per patch and layer, tanh(zeta), on what leaves norm1 and norm2. The residual stream carries no mask. Ours: prefix
tokens (class, distillation, registers) have no mask, where the released code lets the class token be masked like a patch.

Shapes: B batch, N tokens (prefix included), P patches, D width, H heads, K head width, F hidden units.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.methods.unit_removal.gates import gate_widths

PATCH_START = 3.0
"""zeta of a patch at the start, as in the paper: tanh(3) = 0.995."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masks:
    """The masks of one block: head dimensions (H, K), hidden units (F,) and patches (P,), the last one before its tanh.

    `patch_P` is None where all patches stay.
    """

    head_HK: Tensor
    hidden_F: Tensor
    patch_P: Tensor | None


class PatchGate(nn.Module):
    """A block's norm, followed by one factor per patch; prefix tokens pass unchanged."""

    def __init__(self, norm: nn.Module, zeta_P: nn.Parameter, *, num_prefix_tokens: int) -> None:
        super().__init__()
        self.norm = norm
        self.zeta = zeta_P
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x_BND: Tensor) -> Tensor:
        # Prefix tokens are never removed, so that they have no mask.
        mask_N = torch.cat((self.zeta.new_ones(self.num_prefix_tokens), self.zeta.tanh()))
        out: Tensor = self.norm(x_BND) * mask_N[:, None]
        return out


def gate_block(block: Any, *, patches: int | None, num_prefix_tokens: int) -> Masks:
    """Adds masks to a timm block, in place, at their start values: ones, and `PATCH_START` for `patches`; None adds no masks of patches."""
    zeta_HK, zeta_F = gate_widths(block)
    if patches is None:
        return Masks(head_HK=zeta_HK, hidden_F=zeta_F, patch_P=None)
    zeta_P = nn.Parameter(zeta_F.new_full((patches,), PATCH_START))
    # One parameter for both norms: a patch is masked for attention and MLP alike.
    block.norm1 = PatchGate(block.norm1, zeta_P, num_prefix_tokens=num_prefix_tokens)
    block.norm2 = PatchGate(block.norm2, zeta_P, num_prefix_tokens=num_prefix_tokens)
    return Masks(head_HK=zeta_HK, hidden_F=zeta_F, patch_P=zeta_P)


def masks_of(block: Any) -> Masks:
    """The masks that `gate_block` has added."""
    patch_P = block.norm1.zeta if isinstance(block.norm1, PatchGate) else None
    return Masks(head_HK=block.attn.norm.zeta, hidden_F=block.mlp.norm.zeta, patch_P=patch_P)


def _all(masks: Masks) -> list[Tensor]:
    return [zeta for zeta in (masks.head_HK, masks.hidden_F, masks.patch_P) if zeta is not None]


def ungate_patches(block: Any) -> None:
    """Removes the patches' masks, in place; those of the widths go with the layers that pruning replaces."""
    if isinstance(block.norm1, PatchGate):
        block.norm1, block.norm2 = block.norm1.norm, block.norm2.norm


@contextlib.contextmanager
def unmasked(blocks: list[Any]) -> Iterator[None]:
    """Sets all masks to 1 inside the context, and restores them."""
    kept = [(zeta, zeta.detach().clone()) for block in blocks for zeta in _all(masks_of(block))]
    try:
        for block in blocks:
            masks = masks_of(block)
            masks.head_HK.data.fill_(1.0)
            masks.hidden_F.data.fill_(1.0)
            if masks.patch_P is not None:
                # tanh(20) rounds to 1 in every float type.
                masks.patch_P.data.fill_(20.0)
        yield
    finally:
        for zeta, value in kept:
            zeta.data.copy_(value)


def l1_norms(blocks: list[nn.Module]) -> dict[str, Tensor]:
    """The norms of Eq. 1 over all blocks: |zeta|_1 of `attention` and of `mlp`, and where they have masks, |tanh(zeta)|_1 of `patches`."""
    masks = [masks_of(block) for block in blocks]
    norms = {
        "attention": torch.stack([mask.head_HK.abs().sum() for mask in masks]).sum(),
        "mlp": torch.stack([mask.hidden_F.abs().sum() for mask in masks]).sum(),
    }
    patches = [mask.patch_P.tanh().abs().sum() for mask in masks if mask.patch_P is not None]
    return norms | ({"patches": torch.stack(patches).sum()} if patches else {})
