"""Consistency between few and many merged tokens, as in the training of MCTF (CVPR 2024, arXiv 2403.10030).

Each batch passes through the model twice: with the counts of its plan, and with less than half of the merging, drawn for each batch. Both
passes learn the task, and what the head reads in the first, with pooling `token` the class token, is drawn to what it reads in the second.

Shapes: B batch, D width.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from autoslim.methods.base import logits_of
from autoslim.methods.layers.merging import MergeInto, MergingBlock, MergingTrunk
from autoslim.methods.merge.spread import SpreadTokens
from autoslim.methods.trainer import DistillationBatch, Tensors

SHARES = tuple(number / 16 for number in range(8))
"""What is merged in the second pass, of what is planned: 0 to 7 where MCTF merges 16."""


def consistency_loss(batch: DistillationBatch, weight: float) -> Tensors:
    """The task's loss of both passes, and `weight` times the mean squared difference of what the head reads in them.

    The difference has a gradient in the first pass alone: the second one teaches. MCTF's weight is 3, and its mean leaves out images
    whose label is less than 40 % likely.
    """
    # From the step alone: the same on every rank, in every part of a batch, and in a run that resumes.
    share = random.Random(f"{batch.progress}").choice(SHARES)  # noqa: S311 - nothing secret
    with read_by_head(batch.student) as features:
        task = batch.task_loss
        with other_counts(batch.student, eased_counts(batch.student, share)):
            task_of_few = batch.task_loss_of(logits_of(batch.student(batch.images_B3HW)).float())
    many_BD, few_BD = features
    error = functional.mse_loss(many_BD.float(), few_BD.detach().float())
    return {"loss": task + task_of_few + weight * error, "consistency": error}


def eased_counts(model: nn.Module, share: float) -> dict[int, int]:
    """The tokens that stay in each merging stage where this share of what is planned is merged."""
    vit: Any = model
    tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    counts = {}
    for index, stage in enumerate(vit.blocks.stages):
        merge = stage.block.merge if isinstance(stage.block, MergingBlock) else stage.pre_block
        if isinstance(merge, MergeInto):
            assert isinstance(merge.selector, SpreadTokens), "counts of fixed places"
            counts[index] = round(tokens - share * (tokens - merge.selector.tokens))
    return counts


@contextlib.contextmanager
def other_counts(model: nn.Module, counts: Mapping[int, int]) -> Iterator[None]:
    """Passes that begin inside the context have these counts, in their backward pass, too."""
    trunk = model.blocks
    assert isinstance(trunk, MergingTrunk)
    trunk.other_counts = dict(counts)
    try:
        yield
    finally:
        trunk.other_counts = {}


@contextlib.contextmanager
def read_by_head(model: nn.Module) -> Iterator[list[Tensor]]:
    """What the classifier reads (B, D) in each pass inside the context; of two classifiers, the first."""
    vit: Any = model
    found: list[Tensor] = []

    def note(head: nn.Module, inputs: tuple[Tensor]) -> None:
        found.append(inputs[0])

    heads = vit.get_classifier()
    hook = (heads[0] if isinstance(heads, tuple) else heads).register_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()
