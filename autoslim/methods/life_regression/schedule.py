"""The schedule of the drops: which block drops how many patches, and the moments that the lives of the patches have by it.

P patches, L blocks.
"""

from __future__ import annotations

import itertools
import statistics

from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.life_regression.regressor import SoftEnds

EVERY = "every"
"""The choice of the knob `drops` under which lives end in front of every block from the first drop on."""


def reads_once_more(knobs: Knobs) -> bool:
    """Whether the block of a drop still reads the patches that it removes; recipes older than the knob do not."""
    return bool(knobs.get("last_reading", False))


def dropping_blocks(shape: ViTShape, knobs: Knobs) -> int:
    """The number of blocks, from the first, that may remove patches."""
    # Patches that the last block reads save nothing by leaving behind it: with a class query it computes the class token alone.
    return shape.depth - 1 if reads_once_more(knobs) and shape.reads_prefix_alone else shape.depth


def life_moments(
    drop_layers: list[int], patches_kept: list[int], *, patches: int, prefix: int, depth: int
) -> tuple[float, float]:
    """Mean and sample standard deviation, in blocks, of the lives that a schedule implies.

    As in the code: a token that drop k removes has lived until its block, one that no drop removes until the end; prefix tokens count.
    """
    # Between two successive counts lies the number of tokens whose life ends at that drop; the last interval are the survivors.
    counts = [patches + prefix, *(kept + prefix for kept in patches_kept), 0]
    ends = [*drop_layers, depth]
    lives = [
        float(end) for end, (before, after) in zip(ends, itertools.pairwise(counts), strict=True) for _ in range(before - after)
    ]
    return statistics.fmean(lives), statistics.stdev(lives)


def schedule(shape: ViTShape, knobs: Knobs) -> tuple[list[int], list[int]]:
    """The drop layers and the patches kept at each, at least one; the solver's spare patch included."""
    layers, kept = drops_of(shape, knobs)
    until = knobs["spare_until"]
    if not until:
        return layers, kept
    if knobs["drops"] == EVERY:
        return layers, [min(patches + (layer < until), shape.patches) for layer, patches in zip(layers, kept, strict=True)]
    # The spare patch is dropped by a drop of its own, some blocks behind the last one.
    return [*layers, until], [*kept[:-1], kept[-1] + 1, kept[-1]]


def drops_of(shape: ViTShape, knobs: Knobs) -> tuple[list[int], list[int]]:
    """The drop layers of the knobs and the patches that are kept at each: the share above the threshold's quantile of life."""
    if knobs["drops"] == EVERY:
        layers = list(range(knobs["drop_layer_1"], dropping_blocks(shape, knobs)))
        first, last = (patches_above(knobs[f"life_threshold_{end}"], shape) for end in (1, 2))
        # On a line from the first of these blocks to the last.
        steps = max(len(layers) - 1, 1)
        return layers, [int(first + (last - first) * step / steps + 0.5) for step in range(len(layers))]
    drops = range(1, knobs["drops"] + 1)
    return [knobs[f"drop_layer_{k}"] for k in drops], [patches_above(knobs[f"life_threshold_{k}"], shape) for k in drops]


def fitted_moments(drop_layers: list[int], shares_kept: list[float], *, deviation: float) -> tuple[float, float]:
    """Mean and deviation, in blocks, of normally distributed lives of which a share `shares_kept[k]` exceeds `drop_layers[k]`.

    Ours. With more than two drops it is the least-squares fit of both moments; with one drop `deviation` is taken as it is.
    """
    # For normal lives, the share s exceeds mean - deviation * quantile(s): a line in the quantile, with slope -deviation.
    normal = statistics.NormalDist()
    quantiles = [normal.inv_cdf(share) for share in shares_kept]
    if len(quantiles) > 1:
        slope, mean = statistics.linear_regression(quantiles, drop_layers)
        return mean, -slope
    return drop_layers[0] + deviation * quantiles[0], deviation


def moments(shape: ViTShape, knobs: Knobs) -> tuple[float, float]:
    """The moments that lives are standardised to, in blocks."""
    layers, kept = schedule(shape, knobs)
    mean, deviation = life_moments(layers, kept, patches=shape.patches, prefix=shape.prefix_tokens, depth=shape.depth)
    # Fixed counts use only the order of the lives, so the paper's moments serve. Thresholds compare lives with block indices: with ends at
    # the drops the moments are such that the schedule's share of the patches exceeds each.
    if knobs["mode"] == "fixed" or knobs["ends"] == "blocks" or deviation == 0:
        return mean, deviation
    layers, kept = drops_of(shape, knobs)
    # A share of 1 would have an infinite quantile: half a patch less.
    half = 0.5 / shape.patches
    return fitted_moments(layers, [min(patches / shape.patches, 1 - half) for patches in kept], deviation=deviation)


def soft_ends(shape: ViTShape, knobs: Knobs) -> SoftEnds:
    """Where lives end in each block of the soft stage, as the knob `ends` says."""
    layers, kept = schedule(shape, knobs)
    # What is read once more ends a block later.
    first = layers[0] + reads_once_more(knobs)
    blocks = range(layers[0], shape.depth - reads_once_more(knobs))
    if knobs["ends"] == "blocks":
        return SoftEnds(regressor=layers[0], first=first, indices=tuple(blocks), kept=None)
    # In a block behind several drops only patches that outlive the latest of them are left in the pruned form.
    last_drop = tuple(max(layer for layer in layers if layer <= block) for block in blocks)
    tokens = tokens_per_block(shape, layers, kept)
    patches = tuple(tokens[block] - shape.prefix_tokens for block in blocks)
    kept_patches = patches if knobs["mode"] == "fixed" else None
    return SoftEnds(regressor=layers[0], first=first, indices=last_drop, kept=kept_patches)


def tokens_per_block(shape: ViTShape, layers: list[int], kept: list[int]) -> tuple[int, ...]:
    tokens, current = [], shape.tokens
    for index in range(shape.depth):
        if index in layers:
            current = min(current, kept[layers.index(index)] + shape.prefix_tokens)
        tokens.append(current)
    return tuple(tokens)


def spare_until(shape: ViTShape, knobs: Knobs) -> int:
    """The knob `spare_until` where a patch more is possible up to that block, else 0."""
    until = knobs["spare_until"]
    layers, kept = drops_of(shape, knobs)
    if knobs["drops"] == EVERY:
        # Blocks that keep all their patches have none to spare.
        able = [layer for layer, patches in zip(layers, kept, strict=True) if patches < shape.patches]
        return until if able and able[0] < until < dropping_blocks(shape, knobs) else 0
    before = kept[-2] if len(kept) > 1 else shape.patches
    return until if layers[-1] < until < dropping_blocks(shape, knobs) and kept[-1] < before else 0


def patches_above(threshold: float, shape: ViTShape) -> int:
    return max(1, round(shape.patches * (1 - threshold)))
