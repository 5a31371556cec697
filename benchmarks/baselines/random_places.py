"""Random places in Patch Slimming's structure, the control for its score.

Everything is Patch Slimming's, its counts by Algorithm 1 included, but which patches stay: one random order for all blocks and images,
drawn by the recipe's seed. The blocks that Algorithm 1 tunes are tuned for other places, so that they are left as they were.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoslim.methods.base import StepContext
from autoslim.methods.patch_slimming.impact import Chain
from autoslim.methods.patch_slimming.method import Decision, PatchSlimming
from autoslim.methods.patch_slimming.pyramid import Counts


class RandomPlaces(PatchSlimming):
    name = "random_places"
    paper = "none: a baseline"

    def decide(self, model: nn.Module, context: StepContext, tokens: list[Tensor]) -> Decision:
        found = super().decide(model, context, tokens)
        return Decision(
            counts=found.counts, chain=Chain(scores=found.chain.scores, masks=random_masks(found.counts, context)), place=None
        )


def random_masks(counts: Counts, context: StepContext) -> Tensor:
    """Nested masks (L, P) with these counts, from torch's global generator."""
    order_P = torch.randperm(context.shape.patches)
    return torch.stack([torch.zeros(len(order_P), dtype=torch.bool).index_fill(0, order_P[:count], True) for count in counts])
