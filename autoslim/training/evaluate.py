"""Top-1 accuracy of a model on a split."""

from __future__ import annotations

import torch
from torch import nn

from autoslim.data import Loader
from autoslim.methods.base import logits_of
from autoslim.training.device import autocast


@torch.no_grad()
def accuracy(model: nn.Module, loader: Loader, *, device: torch.device, bfloat16: bool) -> float:
    """Share of the loader's images whose highest logit is their label."""
    model.eval()
    right = torch.zeros((), dtype=torch.long, device=device)
    images = 0
    with autocast(model, device=device, bfloat16=bfloat16):
        for images_B3HW, labels_B in loader.epoch(0):
            logits_BC = logits_of(model(images_B3HW.to(device, non_blocking=True)))
            right += (logits_BC.argmax(dim=1) == labels_B.to(device)).sum()
            images += len(labels_B)
    return int(right) / max(images, 1)
