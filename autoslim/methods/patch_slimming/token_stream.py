"""Tokens of further training images, on which Algorithm 1 tunes a block where a trial is long enough to pay for them.

They are computed anew for each candidate, because they do not fit into memory: those around one block of DeiT-S take 0.6 MB an image. An
image is used for all of its passes while its tokens are there (data echoing: Choi et al., 2019, arXiv 1907.05550), so that reading it and
the dense model's forward pass cost less than the tuning.

Shapes: B images, N tokens (prefix included), D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autoslim.methods.patch_slimming.impact import tokens_between_blocks
from autoslim.methods.patch_slimming.tuning_budget import Passes, TuningBudget
from autoslim.methods.trainer import SharedTrainer


class TokenStream:
    """`model` is the dense one; the first `passes.measured` images of the shared trainer's are those whose tokens are cached."""

    def __init__(self, model: nn.Module, shared_trainer: SharedTrainer, passes: Passes) -> None:
        self._model, self._shared_trainer, self._cached = model, shared_trainer, passes.measured
        self._dtype = next(model.parameters()).dtype
        self.budget = TuningBudget(passes, shared_trainer.shape, shared_trainer.epoch_images)

    def chunks(self, block: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The tokens (B, N, D) that enter a block, and those that leave the next one, of the images that the budget has for a candidate.

        B is at most the number of cached images, which bounds the memory. The images are the same ones, in the same order, for every
        candidate, though not as many; none where the training split has no more.
        """
        count, seen = self.budget.further_images(), 0
        if count:
            batches = self._shared_trainer.images(self._cached + count)
            images = itertools.islice((image for batch in batches for image in batch.unbind(0)), self._cached, None)
            while chunk := list(itertools.islice(images, self._cached)):
                seen += len(chunk)
                images_B3HW = torch.stack(chunk).to(self._dtype)
                entering_BND, leaving_BND = tokens_between_blocks(self._model, images_B3HW, places=(block, block + 2))
                yield entering_BND, leaving_BND
        self.budget.spend(seen)


def shuffled_batches(
    tokens: tuple[Tensor, Tensor], count: int, batch: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `count` images in all, in passes over those of `tokens`, each pass in an order of its own."""
    entering_BND, leaving_BND = tokens
    left = count
    while left > 0:
        for part in torch.split(torch.randperm(len(entering_BND), generator=generator), batch):
            rows = part[:left].to(entering_BND.device)
            yield entering_BND[rows], leaving_BND[rows]
            left -= len(part)
            if left <= 0:
                return
