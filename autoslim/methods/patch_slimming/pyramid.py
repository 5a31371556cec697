"""Falling token counts for blocks that compute some of their tokens only: from two knobs, from scores, or from errors.

Block l reads the n_(l-1) patches that block l-1 puts out as keys and values, and computes n_l of them. With pooling `token` the count
of the last block is not chosen here: it computes the prefix tokens alone, or, without a class query, what enters it.

Everything here is ours: of the paper's counts only the totals are published.

Shapes: L blocks, P patches, K rungs of a ladder.
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
"""The knob `spare` has one bit per block, and JSON readers hold integers up to 2^53 exactly."""

TAPER = 0.8
"""The knob's default, and the fall of the counts that `keep` stands for where Algorithm 1 or the scores decide on the counts themselves."""

LEAST_KEEP = 0.02
"""The least `keep` of a recipe: a fiftieth of the patches is four of 196."""

_BISECTIONS = 40
"""2^-40 of a ladder's length is far below one patch."""

_UNBOUNDED = 2**62
"""Above every budget."""

Counts = list[int]
"""Patches that each block puts out, falling from block to block."""

Price = Callable[[Counts], int]
"""Multiply-accumulates per image of a model with these counts."""


def chosen_blocks(shape: ViTShape) -> int:
    """The number of blocks, from the first, whose counts are chosen."""
    return shape.depth - 1 if shape.reads_prefix_alone else shape.depth


def pyramid(shape: ViTShape, knobs: Knobs) -> Counts:
    """Counts on a line around the mean share `keep`, at `taper` 1 as steep as the shares 0 to 1 allow; `spare` adds single patches."""
    line = _line(knobs["keep"], knobs.get("taper", TAPER), chosen_blocks(shape))
    counts = [max(1, int(shape.patches * share + 0.5)) for share in line]
    return with_last_block(shape, _apply_spare(shape, counts, knobs["spare"])[0])


def canonical_knobs(shape: ViTShape, knobs: Knobs) -> Knobs:
    """Knobs with the same counts: `keep` in the middle of the shares that select them, and only the bits of `spare` that add a patch.

    Equal counts are equal recipes this way.
    """
    # Every block allows an interval of `keep` in which its count stays; what they have in common keeps all counts.
    blocks, taper = chosen_blocks(shape), knobs.get("taper", TAPER)
    lows, highs = [0.0], [1.0]
    for number, share in enumerate(_line(knobs["keep"], taper, blocks)):
        count = int(shape.patches * share + 0.5)
        if count > 1:
            lows.append(_keep_at((count - 0.5) / shape.patches, taper, number, blocks))
        if count < shape.patches:
            highs.append(_keep_at((max(count, 1) + 0.5) / shape.patches, taper, number, blocks))
    # The middle may lie below what a recipe may have, where each block has a patch or two; the least share allowed selects the same then.
    keep = max((max(lows) + min(highs)) / 2, LEAST_KEEP)
    counts = [max(1, int(shape.patches * share + 0.5)) for share in _line(keep, taper, blocks)]
    return {**knobs, "keep": keep, "spare": _apply_spare(shape, counts, knobs["spare"])[1]}


def add_one_patch(shape: ViTShape, knobs: Knobs) -> list[Knobs]:
    """Knobs with one patch more in one block each."""
    return [
        {**knobs, "spare": knobs["spare"] | 1 << block}
        for block in range(chosen_blocks(shape))
        if not knobs["spare"] >> block & 1
    ]


def _line(keep: float, taper: float, blocks: int) -> list[float]:
    # min(keep, 1 - keep) is the largest swing that leaves the shares within 0 to 1.
    return [keep + taper * min(keep, 1 - keep) * _tilt(number, blocks) for number in range(blocks)]


def _tilt(number: int, blocks: int) -> float:
    """1 in the first block, -1 in the last."""
    return 1 - 2 * number / (blocks - 1) if blocks > 1 else 0.0


def _keep_at(share: float, taper: float, number: int, blocks: int) -> float:
    """The inverse of `_line`: the `keep` at which block `number` has the share `share`."""
    # `_line` has one slope in `keep` below 1/2 and another above; the branch that contains its own solution holds.
    slope = taper * _tilt(number, blocks)
    below_half = share / (1 + slope) if slope > -1 else 1.0
    if below_half <= 0.5:
        return below_half
    return (share - slope) / (1 - slope) if slope < 1 else 1.0


def _apply_spare(shape: ViTShape, counts: Counts, spare: int) -> tuple[Counts, int]:
    """Counts with one patch more where `spare` has a bit and the block before puts out as many; and the bits that had an effect."""
    out, used, before = [], 0, shape.patches
    for number, count in enumerate(counts):
        if spare >> number & 1 and count < before:
            count, used = count + 1, used | 1 << number
        out.append(count)
        before = count
    return out, used


def with_last_block(shape: ViTShape, counts: Counts) -> Counts:
    """Counts for all blocks: a last block whose count is not chosen computes what enters it."""
    return [*counts, *counts[-1:] * (shape.depth - len(counts))]


def counts_left(shape: ViTShape, kept: Mapping[int, int]) -> Counts:
    """The patches that each block computes; `kept` maps the blocks that remove some to how many they keep."""
    counts, count = [], shape.patches
    for block in range(shape.depth):
        count = kept.get(block, count)
        counts.append(count)
    return counts


def removals(shape: ViTShape, counts: Counts) -> dict[int, tuple[int, int]]:
    """The blocks that remove patches, each with the patches that enter it and those that it leaves."""
    entering = [shape.patches, *counts[:-1]]
    pairs = enumerate(zip(entering, counts, strict=True))
    return {block: (before, count) for block, (before, count) in pairs if count < before}


def with_class_query(shape: ViTShape, plan: Plan) -> Plan:
    """`plan` with a last block that computes the prefix tokens alone: the paper's m_L, and without loss, as the head reads nothing else."""
    last = plan.blocks[-1].replace(tokens_q=shape.prefix_tokens, tokens_mlp=shape.prefix_tokens)
    return plan.replace(blocks=(*plan.blocks[:-1], last))


def has_class_query(shape: ViTShape, plan: Plan) -> bool:
    """Whether the last block computes the prefix tokens alone; every other one keeps a patch at least."""
    return shape.reads_prefix_alone and plan.blocks[-1].tokens_q == shape.prefix_tokens


def rectangular(shape: ViTShape, plan: Plan, counts: Counts, extras: tuple[Extra, ...] = ()) -> Plan:
    """`plan` with blocks that compute `counts` patches of those that the block before puts out; widths and a class query stay.

    Raises:
        UnsupportedModelError: when an earlier step has pruned the tokens already.
    """
    dense = [block.tokens_kv for block in plan.blocks] + [block.tokens_mlp for block in plan.blocks[:-1]]
    if any(tokens != shape.tokens for tokens in dense):
        raise UnsupportedModelError("tokens: an earlier step of this recipe has pruned them already; only one method may")
    blocks = []
    for block, before, count in zip(plan.blocks, [shape.patches, *counts[:-1]], counts, strict=True):
        left = count + shape.prefix_tokens
        # Without attention nothing reads keys and values, and the removed tokens are dropped in front of the block.
        entering = before + shape.prefix_tokens if block.heads else left
        blocks.append(
            block.replace(tokens_kv=entering, tokens_q=min(left, block.tokens_q), tokens_mlp=min(left, block.tokens_mlp))
        )
    return plan.replace(blocks=tuple(blocks), extras=(*plan.extras, *extras))


def fill_budget(shape: ViTShape, counts: Counts, price: Price, budget: int) -> Counts:
    """`counts` with single patches added until none fits the budget any more."""
    while True:
        # Of all counts with one patch more in one block, the most expensive that fits: it leaves the least of the budget unused.
        spent = price(counts)
        steps = [(price(more), more) for more in _one_more(shape, counts)]
        fitting = [step for step in steps if spent < step[0] <= budget]
        if not fitting:
            return counts
        counts = max(fitting, key=lambda step: step[0])[1]


def _one_more(shape: ViTShape, counts: Counts) -> list[Counts]:
    """All counts with one patch more in one block that the block before can supply."""
    chosen = counts[: chosen_blocks(shape)]
    steps = []
    for number, (before, count) in enumerate(zip([shape.patches, *chosen], chosen, strict=False)):
        if count < before:
            steps.append(with_last_block(shape, [*chosen[:number], count + 1, *chosen[number + 1 :]]))
    return steps


def allocate_by_score(shape: ViTShape, score_LP: Tensor, price: Price, budget: int) -> Counts:
    """Counts that retain the most impact per multiply-accumulate, greedily, within `budget`. `score_LP` are mean scores per block."""
    # 1. Scores grow from block to block; as shares of their block's sum, sorted, they are comparable.
    blocks = chosen_blocks(shape)
    share_LP = score_LP[:blocks].double().sort(dim=1, descending=True).values
    share = (share_LP / share_LP.sum(dim=1, keepdim=True).clamp_min(1e-300)).tolist()
    # 2. From one patch a block upwards, add what has the highest share per multiply-accumulate and still fits.
    counts = [1] * blocks
    while True:
        spent = price(with_last_block(shape, counts))
        best, best_rate = None, -1.0
        for last in range(blocks):
            # No block may compute more than the one before: where counts are equal, all blocks of the run get a patch.
            run = _run_up_to(counts, last)
            if counts[run[0]] >= shape.patches:
                continue
            more = [count + (number in run) for number, count in enumerate(counts)]
            cost = price(with_last_block(shape, more)) - spent
            rate = sum(share[number][counts[number]] for number in run) / max(cost, 1)
            if spent + cost <= budget and rate > best_rate:
                best, best_rate = more, rate
        if best is None:
            return with_last_block(shape, counts)
        counts = best


def _run_up_to(counts: Counts, last: int) -> range:
    """The blocks that each need one patch more so that block `last` may have one more."""
    first = last
    while first > 0 and counts[first - 1] == counts[last]:
        first -= 1
    return range(first, last + 1)


def interpolate_ladder(shape: ViTShape, ladder_KL: Tensor, price: Price, budget: int) -> tuple[Counts, float]:
    """Counts between the rungs of a ladder of measured counts (K, L), cheapest first, that fill `budget`; and their place, in rungs.

    A place of 1.5 is halfway between the second and the third rung. Counts between rungs reach no epsilon of their own.
    """
    # 1. The ladder is extended by its ends: one patch a block in front, all patches behind.
    blocks = chosen_blocks(shape)
    rungs = [[1] * blocks, *(row[:blocks] for row in ladder_KL.long().tolist()), [shape.patches] * blocks]

    def at(place: float) -> Counts:
        # The running minimum keeps counts falling where a rung's errors were noisy.
        rung = min(int(place), len(rungs) - 2)
        part = place - rung
        line = (int(low + part * (high - low) + 0.5) for low, high in zip(rungs[rung], rungs[rung + 1], strict=True))
        return with_last_block(shape, list(itertools.accumulate(line, min)))

    low, high = 0.0, float(len(rungs) - 1)
    if price(at(high)) <= budget:
        return at(high), high - 1
    # 2. The price rises along the ladder: bisect the place, far below the distance of two counts.
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if price(at(middle)) <= budget else (low, middle)
    # 3. Counts are whole numbers: single patches use what the bisection has left.
    return fill_budget(shape, at(low), price, budget), low - 1


def price_of(shape: ViTShape, plan_of: Callable[[Counts], Plan], fits: Callable[[Plan], bool] = lambda plan: True) -> Price:
    """The exact price of counts, whose plan `plan_of` makes; without bound where it breaks another limit, which `fits` checks."""

    def price(counts: Counts) -> int:
        plan = plan_of(counts)
        return predict(shape, plan).total if fits(plan) else _UNBOUNDED

    return price


def nested_rows(mask_LP: Tensor, prefix_tokens: int) -> list[Tensor]:
    """For each block the indices, among the tokens that enter it, of those that it computes: the prefix, then patches in reading order."""
    rows = []
    entering_P = torch.ones_like(mask_LP[0])
    prefix = torch.arange(prefix_tokens, device=mask_LP.device)
    for mask_P in mask_LP:
        assert not bool((mask_P & ~entering_P).any()), "masks are nested: a removed patch does not return"
        rows.append(torch.cat((prefix, mask_P[entering_P].nonzero()[:, 0] + prefix_tokens)))
        entering_P = mask_P
    return rows
