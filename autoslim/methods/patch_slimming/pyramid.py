"""Falling token counts for blocks that compute some of their tokens only: told by two knobs, or found from scores or errors.

Block l takes the n_(l-1) patches that block l-1 has put out as keys and values, and computes n_l of them. With pooling `token` the
last block's own outputs are not a method's to choose but the recipe's (`class_query`), so that all methods are compared alike; it
computes what it gets.

Everything here is ours: of the papers' counts only the totals are published.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.errors import UnsupportedModelError

MAX_DEPTH = 52
"""`spare` holds a bit a block and must pass through JSON unharmed."""

Counts = list[int]
"""Patches that each block puts out, falling from block to block."""

Price = Callable[[Counts], int]
"""Multiply-accumulates of a model with these counts."""


def chosen_blocks(shape: ViTShape) -> int:
    """How many blocks, from the first, have counts of their own."""
    return shape.depth - 1 if shape.pool == "token" else shape.depth


def pyramid(shape: ViTShape, knobs: Knobs) -> Counts:
    """A line around the mean share `keep`; `taper` 1 lets it fall as steeply as it can without leaving 0 to 1."""
    counts = [max(1, int(shape.patches * share + 0.5)) for share in _line(knobs["keep"], knobs["taper"], chosen_blocks(shape))]
    return with_last_block(shape, _apply_spare(shape, counts, knobs["spare"])[0])


def canonical_knobs(shape: ViTShape, knobs: Knobs) -> Knobs:
    """`keep` in the middle of the shares that select the same counts, so that equal counts are equal recipes; no idle bit in `spare`."""
    blocks = chosen_blocks(shape)
    lows, highs = [0.0], [1.0]
    for number, share in enumerate(_line(knobs["keep"], knobs["taper"], blocks)):
        count = int(shape.patches * share + 0.5)
        if count > 1:
            lows.append(_keep_at((count - 0.5) / shape.patches, knobs["taper"], number, blocks))
        if count < shape.patches:
            highs.append(_keep_at((max(count, 1) + 0.5) / shape.patches, knobs["taper"], number, blocks))
    keep = (max(lows) + min(highs)) / 2
    counts = [max(1, int(shape.patches * share + 0.5)) for share in _line(keep, knobs["taper"], blocks)]
    return {**knobs, "keep": keep, "spare": _apply_spare(shape, counts, knobs["spare"])[1]}


def add_one_patch(shape: ViTShape, knobs: Knobs) -> list[Knobs]:
    """Knobs of one patch more in one block each."""
    return [
        {**knobs, "spare": knobs["spare"] | 1 << block}
        for block in range(chosen_blocks(shape))
        if not knobs["spare"] >> block & 1
    ]


def _line(keep: float, taper: float, blocks: int) -> list[float]:
    return [keep + taper * min(keep, 1 - keep) * _tilt(number, blocks) for number in range(blocks)]


def _tilt(number: int, blocks: int) -> float:
    """1 in the first block, -1 in the last."""
    return 1 - 2 * number / (blocks - 1) if blocks > 1 else 0.0


def _keep_at(share: float, taper: float, number: int, blocks: int) -> float:
    """The `keep` at which block `number` has this share."""
    slope = taper * _tilt(number, blocks)
    below_half = share / (1 + slope) if slope > -1 else 1.0
    if below_half <= 0.5:
        return below_half
    return (share - slope) / (1 - slope) if slope < 1 else 1.0


def _apply_spare(shape: ViTShape, counts: Counts, spare: int) -> tuple[Counts, int]:
    """One patch more where `spare` has a bit and the block before has the patch to give; and the bits that were of use."""
    out, used, before = [], 0, shape.patches
    for number, count in enumerate(counts):
        if spare >> number & 1 and count < before:
            count, used = count + 1, used | 1 << number
        out.append(count)
        before = count
    return out, used


def with_last_block(shape: ViTShape, counts: Counts) -> Counts:
    """With the last block's count, which is not chosen where only prefix tokens are read behind it."""
    return [*counts, *counts[-1:] * (shape.depth - len(counts))]


def counts_left(shape: ViTShape, kept: Mapping[int, int]) -> Counts:
    """The patches that each block computes, given the blocks that leave some out and how many they keep."""
    counts, count = [], shape.patches
    for block in range(shape.depth):
        count = kept.get(block, count)
        counts.append(count)
    return counts


def rectangular(shape: ViTShape, plan: Plan, counts: Counts, extras: tuple[Extra, ...] = ()) -> Plan:
    """The plan of blocks that compute `counts` patches from those before; widths, and a class query, stay as they are.

    Raises:
        UnsupportedModelError: when an earlier step has cut the tokens already.
    """
    dense = [block.tokens_kv for block in plan.blocks] + [block.tokens_mlp for block in plan.blocks[:-1]]
    if any(tokens != shape.tokens for tokens in dense):
        raise UnsupportedModelError("tokens: an earlier step of this recipe has cut them already; only one method may")
    blocks = []
    for block, before, count in zip(plan.blocks, [shape.patches, *counts[:-1]], counts, strict=True):
        left = count + shape.prefix_tokens
        # Without attention nothing needs the keys and values of the others.
        entering = before + shape.prefix_tokens if block.heads else left
        blocks.append(
            block.replace(tokens_kv=entering, tokens_q=min(left, block.tokens_q), tokens_mlp=min(left, block.tokens_mlp))
        )
    return plan.replace(blocks=tuple(blocks), extras=(*plan.extras, *extras))


def fill_budget(shape: ViTShape, counts: Counts, price: Price, budget: int) -> Counts:
    """`counts` with single patches added, dearest first, until nothing fits any more."""
    while True:
        spent = price(counts)
        steps = [(price(more), more) for more in _one_more(shape, counts)]
        fitting = [step for step in steps if spent < step[0] <= budget]
        if not fitting:
            return counts
        counts = max(fitting, key=lambda step: step[0])[1]


def _one_more(shape: ViTShape, counts: Counts) -> list[Counts]:
    chosen = counts[: chosen_blocks(shape)]
    steps = []
    for number, (before, count) in enumerate(zip([shape.patches, *chosen], chosen, strict=False)):
        if count < before:
            steps.append(with_last_block(shape, [*chosen[:number], count + 1, *chosen[number + 1 :]]))
    return steps


def allocate_by_score(shape: ViTShape, score_LP: Tensor, price: Price, budget: int) -> Counts:
    """Counts that retain the most impact per multiply-accumulate.

    Each block's scores are taken as shares of their sum, sorted. From one patch a block upwards, what is added next is the patch, or
    the run of patches over blocks of equal count (for no block may compute more than the one before), of the highest share per
    multiply-accumulate that still fits.
    """
    blocks = chosen_blocks(shape)
    share_LP = score_LP[:blocks].double().sort(dim=1, descending=True).values
    share = (share_LP / share_LP.sum(dim=1, keepdim=True).clamp_min(1e-300)).tolist()
    counts = [1] * blocks
    while True:
        spent = price(with_last_block(shape, counts))
        best, best_rate = None, -1.0
        for last in range(blocks):
            run = _run_up_to(counts, last)
            if run is None or counts[run[0]] >= shape.patches:
                continue
            more = [count + (number in run) for number, count in enumerate(counts)]
            cost = price(with_last_block(shape, more)) - spent
            rate = sum(share[number][counts[number]] for number in run) / max(cost, 1)
            if spent + cost <= budget and rate > best_rate:
                best, best_rate = more, rate
        if best is None:
            return with_last_block(shape, counts)
        counts = best


def _run_up_to(counts: Counts, last: int) -> range | None:
    """The blocks that must each compute one patch more for block `last` to do so; None: a longer run begins with these."""
    first = last
    while first > 0 and counts[first - 1] == counts[last]:
        first -= 1
    return range(first, last + 1)


def interpolate_ladder(shape: ViTShape, ladder_KL: Tensor, price: Price, budget: int) -> tuple[Counts, float]:
    """Counts on a ladder of measured rungs, cheapest first, between the last rung that fits and the next; and where, in rungs.

    The line between two rungs is bisected onto the budget, then single patches fill it. Beyond the dearest rung it leads to all
    patches, in front of the cheapest to one patch a block.
    """
    blocks = chosen_blocks(shape)
    rungs = [[1] * blocks, *(row[:blocks] for row in ladder_KL.long().tolist()), [shape.patches] * blocks]

    def at(place: float) -> Counts:
        rung = min(int(place), len(rungs) - 2)
        part = place - rung
        line = (int(low + part * (high - low) + 0.5) for low, high in zip(rungs[rung], rungs[rung + 1], strict=True))
        return with_last_block(shape, list(itertools.accumulate(line, min)))

    low, high = 0.0, float(len(rungs) - 1)
    if price(at(high)) <= budget:
        return at(high), high - 1
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if price(at(middle)) <= budget else (low, middle)
    return fill_budget(shape, at(low), price, budget), low - 1


def price_of(shape: ViTShape, plan: Plan, extras: Callable[[Counts], tuple[Extra, ...]]) -> Price:
    """What a model of given counts costs, to the integer."""

    def price(counts: Counts) -> int:
        return predict(shape, rectangular(shape, plan, counts, extras(counts))).total

    return price


def nested_rows(mask_LP: Tensor, prefix_tokens: int) -> list[Tensor]:
    """For each block the places, among the tokens that enter it, of those that it computes, prefix first and then in reading order."""
    rows = []
    entering_P = torch.ones_like(mask_LP[0])
    prefix = torch.arange(prefix_tokens, device=mask_LP.device)
    for mask_P in mask_LP:
        assert not bool((mask_P & ~entering_P).any()), "a patch that is gone does not come back"
        rows.append(torch.cat((prefix, mask_P[entering_P].nonzero()[:, 0] + prefix_tokens)))
        entering_P = mask_P
    return rows
