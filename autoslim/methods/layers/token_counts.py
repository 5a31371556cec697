"""How many tokens an adaptive model keeps of each image, and what that costs.

Shapes: B batch, L blocks, U distinct counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core import activity
from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.methods.layers.adaptive_trunk import AdaptiveTrunk, CountedTokens, TokenDropBlock


@contextlib.contextmanager
def recording(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that grows by a tensor (B, L, 2) for every batch: the tokens that enter and leave each block's attention, on the CPU.

    It stays empty where the counts are fixed.
    """
    batches: list[Tensor] = []
    trunk = model.blocks
    if not isinstance(trunk, AdaptiveTrunk):
        yield batches
        return
    seen: list[Tensor] = []

    def note(stage: Any, inputs: tuple[CountedTokens], output: CountedTokens) -> None:
        # A drop inside the block leaves the keys alone; one in front removes tokens before the attention sees them.
        enter_B = inputs[0].count_B if isinstance(stage.block, TokenDropBlock) else output.count_B
        # A class query as the last block leaves fewer tokens than the count says.
        seen.append(torch.stack((enter_B, output.count_B.clamp(max=output.x_BND.shape[1])), dim=1))
        if len(seen) == len(trunk):
            batches.append(torch.stack(seen, dim=1).cpu())
            seen.clear()

    hooks = [stage.register_forward_hook(note) for stage in trunk.stages]
    try:
        yield batches
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def token_counts(model: nn.Module, images_B3HW: Tensor) -> Tensor:
    """Tokens, prefix included, that enter and leave each block's attention in an adaptive model, per image: (B, L, 2)."""
    assert isinstance(model.blocks, AdaptiveTrunk)
    # A bisection of thresholds comes by here with each batch.
    activity.mark()
    with recording(model) as batches:
        model(images_B3HW)
    return batches[0]


def plan_of_image(model: nn.Module, shape: ViTShape, plan: Plan, count_L2: Tensor) -> Plan:
    """What an adaptive model of `plan` computes for an image with the counts (L, 2) of `token_counts`."""
    trunk = model.blocks
    assert isinstance(trunk, AdaptiveTrunk)
    blocks = tuple(
        block.replace(tokens_kv=enter, tokens_q=leave, tokens_mlp=leave)
        for block, (enter, leave) in zip(plan.blocks, count_L2.tolist(), strict=True)
    )
    # A scorer costs as much as the tokens that reach it.
    prices = {}
    for index, drop in trunk.drops():
        if drop.scorer is not None:
            before = shape.tokens if index == 0 else blocks[index - 1].tokens_mlp
            extra = drop.scorer.price(index, before)
            prices[extra.name, extra.place] = extra
    return plan.replace(blocks=blocks, extras=tuple(prices.get((extra.name, extra.place), extra) for extra in plan.extras))


def image_flops(model: nn.Module, shape: ViTShape, plan: Plan, count_BL2: Tensor) -> Tensor:
    """Multiply-accumulates per image, int64 (B,): `predict` of its own counts, equal to what fvcore counts at batch 1."""
    # Many images have equal counts: each distinct row is priced once.
    distinct_UL2, place_B = torch.unique(count_BL2, dim=0, return_inverse=True)
    totals = [predict(shape, plan_of_image(model, shape, plan, count_L2)).total for count_L2 in distinct_UL2]
    return torch.tensor(totals)[place_B]
