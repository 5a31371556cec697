"""Gradual pruning: at first all patches are computed in fine-tuning, and fewer and fewer until the counts are those of the plan.

The schedule of counts is an idea of EViT's training (ICLR 2022, arXiv 2202.07800), which shrinks them over a part of the epochs; ours is on
a line. Only training is different: a model that is evaluated has the counts of its plan.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from autoslim.core.recipe import Knobs
from autoslim.methods.knob import Knob
from autoslim.methods.layers.token_selector import TokenSelector

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
    for part in model.modules():
        # A class query in the last block leaves no patch, and is no pruning.
        if isinstance(part, TokenSelector) and part.planned is not None and part.planned > prefix:
            part.eased = None if done >= 1 else round(tokens - done * (tokens - part.planned))
