"""Gradual pruning: at first all patches are computed in fine-tuning, and fewer and fewer until the counts are those of the plan.

The schedule of counts is an idea of EViT's training (ICLR 2022, arXiv 2202.07800), which shrinks them over a part of the epochs; ours is on
a line. Only training is different: a model that is evaluated has the counts of its plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autoslim.core.recipe import Knobs
from autoslim.methods.knob import Knob
from autoslim.methods.layers.token_selector import FixedTokens, TokenSelector

GRADUAL = Knob(
    kind="float",
    help="share of the fine-tuning in which patches go little by little (EViT); 0: all at once",
    default=0.0,
    low=0.0,
    high=0.9,
)
"""The knob `gradual` of methods that prune by a count."""

_STEPS = 8
"""Counts on the way: few enough for blocks that are compiled for each."""


def prune_gradually(model: nn.Module, knobs: Knobs, progress: float) -> None:
    """Sets how many patches stay in training when the share `progress` of the fine-tuning is done. Recipes older than the knob lack it."""
    share = float(knobs.get("gradual", 0.0))
    if share <= 0:
        return
    done = int(_STEPS * progress / share) / _STEPS
    vit: Any = model
    prefix, tokens = vit.num_prefix_tokens, vit.patch_embed.num_patches + vit.num_prefix_tokens
    selectors = [part for part in model.modules() if isinstance(part, TokenSelector)]
    before = [part.eased for part in selectors]
    for part in selectors:
        # A class query in the last block leaves no patch, and is no pruning.
        if part.planned is not None and part.planned > prefix:
            part.eased = None if done >= 1 else round(tokens - done * (tokens - part.planned))
    fixed = [part for part in selectors if isinstance(part, FixedTokens)]
    if fixed and [part.eased for part in selectors] != before:
        _ease_places(fixed, tokens)


def _ease_places(selectors: Sequence[FixedTokens], tokens: int) -> None:
    """The places of as many tokens as are `eased`: those that stay longest in the pruned form, then in reading order.

    A place that is removed early is also the first to go on the way there, so that what a block computes has reached it. All of it is
    computed on the device: a step would wait for what is read from there.
    """
    device = selectors[0].index.device
    # 1. How many selections each of the image's places outlives; prefix tokens all of them.
    outlived_T = torch.zeros(tokens, dtype=torch.long, device=device)
    entering = torch.arange(tokens, device=device)
    for part in selectors:
        entering = entering.index_select(0, part.index)
        outlived_T.index_add_(0, entering, torch.ones_like(entering))
    order_T = outlived_T.argsort(descending=True, stable=True)
    # 2. The first of them in this order, among those that enter.
    entering = torch.arange(tokens, device=device)
    for part in selectors:
        if part.eased is None:
            part.eased_index = None
            continue
        kept = order_T[: part.eased].sort().values
        part.eased_index = torch.searchsorted(entering, kept)
        entering = kept
