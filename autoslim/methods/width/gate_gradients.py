"""How much the loss depends on every unit of the dense model: the root mean square of the gradient of its gate.

A gate multiplies all of a unit's output and is 1 (`unit_removal.gates`). Over backward passes b with the loss E_b,

    worth = sqrt(mean_b (dE_b / dzeta)^2),

the first-order importance of a gate (Molchanov et al., CVPR 2019, arXiv 1906.10771), averaged over mini-batches. Labels are drawn from the
model's own prediction, which makes it the root of a diagonal of the Fisher information (Theis et al., arXiv 1801.05787): a model
that has fitted its training labels has hardly a gradient left on them. Ours: of a model without a classifier the features F are the mean
of a normal distribution of variance 1, whose Fisher information is the squared gradient of F times drawn noise.

Shapes: B batch, C classes, H heads, K head width, F hidden units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core import activity
from autoslim.methods.base import logits_of
from autoslim.methods.layers.backbone import features
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.unit_removal.gates import gate_widths


def gradient_rms(model: nn.Module, batches_B3HW: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The worths of each block's head dimensions (H, K) and hidden units (F,), one backward pass for each batch; gates `model` in place."""
    gates = [gate_widths(block) for block in blocks_of(model.requires_grad_(False).eval())]
    flat = [gate for pair in gates for gate in pair]
    # One generator on the CPU: every device draws the same labels.
    generator = torch.Generator().manual_seed(0)
    squares = [torch.zeros_like(gate, dtype=torch.float64) for gate in flat]
    passes = 0
    for images_B3HW in batches_B3HW:
        activity.mark()
        for square, gradient in zip(squares, _gradients(model, flat, images_B3HW, generator), strict=True):
            square += gradient.double().square()
        passes += 1
    rms = [(square / passes).sqrt().float() for square in squares]
    return list(zip(rms[::2], rms[1::2], strict=True))


def _gradients(model: nn.Module, gates: Sequence[Tensor], images_B3HW: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """The gradients of the mean cross entropy of this batch."""
    if not model.num_classes:
        return _feature_gradients(model, gates, images_B3HW, generator)
    logits_BC = logits_of(model(images_B3HW)).float()
    drawn_B = logits_BC.detach().softmax(dim=1).cpu().multinomial(1, generator=generator).squeeze(1)
    return torch.autograd.grad(functional.cross_entropy(logits_BC, drawn_B.to(logits_BC.device)), gates)


def _feature_gradients(
    model: nn.Module, gates: Sequence[Tensor], images_B3HW: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """The gradients of the mean over this batch of the tokens times noise."""
    tokens_BTD = features(model, images_B3HW).tokens.float()
    noise_BTD = torch.randn(tokens_BTD.shape, generator=generator).to(tokens_BTD)
    return torch.autograd.grad((tokens_BTD * noise_BTD).sum() / len(tokens_BTD), gates)
