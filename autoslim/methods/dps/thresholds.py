"""The thresholds of DPS's adaptive form: one for each drop, set on images so that a budget holds.

Shapes: B batch, N tokens (prefix included), P patches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core import activity
from autoslim.methods.base import StepContext
from autoslim.methods.layers.adaptive_trunk import CountedTokens, TokenDrop
from autoslim.methods.layers.token_counts import image_flops, token_counts

HEADROOM = 1.25
"""The most patches of an image, as a multiple of the fixed form's, where the budget holds for the mean: some images need more."""

_MARGIN = 0.005
"""Share of a budget for the mean that stays unused, because the mean is checked on other images than those of the calibration."""

_BISECTION_STEPS = 12
_MAX_SHIFT = 8.0
"""Thresholds move by up to eight standard deviations of the scores, which are standardised, in steps down to 16 / 2^12 of one."""

CALIBRATION_BATCHES = 8
"""Batches of training images that thresholds are set on."""

_CALIBRATION_BATCH_SIZE = 64
"""Images in a pass. Each of the bisection's steps runs all of the calibration's images."""


def scores_of(model: nn.Module, drop: TokenDrop, images_B3HW: Tensor) -> Tensor:
    """The scores of all patches that reach a drop's scorer, of all images concatenated to one dimension, without padding."""
    found: list[Tensor] = []

    def note(scorer: nn.Module, args: tuple[CountedTokens], score_BP: Tensor) -> None:
        valid_BP = ~args[0].padding_BN()[:, drop.num_prefix_tokens :]
        found.append(score_BP[valid_BP].float())

    hook = drop.scorer.register_forward_hook(note)  # type: ignore[union-attr]
    try:
        for batch_B3HW in torch.split(images_B3HW, _CALIBRATION_BATCH_SIZE):
            activity.mark()
            model(batch_B3HW)
    finally:
        hook.remove()
    return torch.cat(found)


def set_threshold(drop: TokenDrop, value: float) -> None:
    threshold: Tensor = drop.threshold  # type: ignore[assignment]
    threshold.fill_(value)


def threshold_at(scores: Tensor, wanted: float) -> float:
    """Halfway between the `wanted`-th highest score and the next."""
    descending = scores.sort(descending=True).values
    last = min(max(int(wanted), 1), len(descending)) - 1
    # Where all patches are wanted, any value below the lowest score will do.
    below = descending[last + 1] if last + 1 < len(descending) else descending[last] - 1
    return float((descending[last] + below) / 2)


def shift_thresholds_to_mean(model: nn.Module, context: StepContext, images_B3HW: Tensor) -> None:
    """Raises or lowers all thresholds by the same amount, in place: the lowest with which the images' mean FLOPs keep to the budget."""
    trunk: Any = model.blocks
    start = [(drop, drop.threshold.item()) for _, drop in trunk.drops()]

    def apply(shift: float) -> float:
        """Sets every threshold `shift` above its start, and returns the mean FLOPs of the images with these thresholds."""
        for drop, threshold in start:
            set_threshold(drop, threshold + shift)
        counts = [token_counts(model, batch) for batch in torch.split(images_B3HW, _CALIBRATION_BATCH_SIZE)]
        return float(image_flops(model, context.shape, context.plan, torch.cat(counts)).double().mean())

    # The mean falls with the shift. It ends at `high`, which is within the budget.
    low, high = -_MAX_SHIFT, _MAX_SHIFT
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        if apply(middle) <= (1 - _MARGIN) * context.budget:
            high = middle
        else:
            low = middle
    # The last shift that was tried may be one above the budget, and is the one in force: the accepted shift is applied again.
    apply(high)
