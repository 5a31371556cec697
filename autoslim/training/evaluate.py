"""Top-1 accuracy of a model on a split."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autoslim.data import Loader
from autoslim.methods.base import logits_of
from autoslim.training.device import Precision, autocast, pick_device


@torch.no_grad()
def accuracy(model: nn.Module, loader: Loader, *, device: torch.device, precision: Precision) -> float:
    """Share of the loader's images whose highest logit is their label."""
    right = torch.zeros((), dtype=torch.long, device=device)
    images = 0
    for answer_B, label_B in _answers(model, loader, device=device, precision=precision):
        right += (answer_B == label_B).sum()
        images += len(label_B)
    return int(right) / max(images, 1)


def answers(model: nn.Module, loader: Loader) -> tuple[Tensor, Tensor]:
    """The classes with the highest logits and the labels, (N,) each, in float32 on the best device."""
    device, none = pick_device(), torch.empty(0, dtype=torch.long)
    answers_N, labels_N = [none], [none]
    for answer_B, label_B in _answers(model.to(device), loader, device=device, precision=Precision.FLOAT32):
        answers_N.append(answer_B.cpu())
        labels_N.append(label_B.cpu())
    return torch.cat(answers_N), torch.cat(labels_N)


@torch.no_grad()
def _answers(model: nn.Module, loader: Loader, *, device: torch.device, precision: Precision) -> Iterator[tuple[Tensor, Tensor]]:
    model.eval()
    for images_B3HW, label_B in loader.epoch(0, device):
        with autocast(model, device=device, precision=precision):
            logits_BC = logits_of(model(images_B3HW))
        yield logits_BC.argmax(dim=1), label_B
