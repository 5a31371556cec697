"""How many patches each block leaves: free counts at four blocks, a quarter of the depth apart, and on lines between them.

With pooling `token` the last block's count is not chosen here, because the recipe's `class_query` decides it: the block computes what
enters it.

Shapes: P patches, L blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.knob import Ranges
from autoslim.methods.patch_slimming.pyramid import Counts, chosen_blocks, with_last_block

QUARTERS = 4

KEEP = tuple(f"keep_{quarter}" for quarter in range(1, QUARTERS + 1))
"""Knobs: the share of the patches that is left behind each quarter of the blocks."""


def quarter_ends(shape: ViTShape) -> list[int]:
    """The last block of each quarter of the chosen ones; a model of few blocks has several quarters that end at the same one."""
    blocks = chosen_blocks(shape)
    return [max(1, int(quarter * blocks / QUARTERS + 0.5)) - 1 for quarter in range(1, QUARTERS + 1)]


def patch_counts(shape: ViTShape, knobs: Knobs) -> Counts:
    """The patches that each block leaves, from repaired knobs."""
    return with_last_block(shape, _with_spare(shape, _on_lines(shape, knobs), knobs["spare"])[0])


def canonical_counts(shape: ViTShape, knobs: Knobs) -> Knobs:
    """Knobs with the same counts: shares in falling order, each that of its count, and only the bits of `spare` that add a patch.

    Equal counts are equal recipes this way.
    """
    falling = dict(zip(KEEP, sorted((knobs[name] for name in KEEP), reverse=True), strict=True))
    # Of several quarters that end at the same block, the last one decides.
    decisive = dict(zip(quarter_ends(shape), falling.values(), strict=True))
    shares = {
        name: max(1, round(shape.patches * decisive[block])) / shape.patches
        for name, block in zip(KEEP, quarter_ends(shape), strict=True)
    }
    knobs = {**knobs, **shares}
    return {**knobs, "spare": _with_spare(shape, _on_lines(shape, knobs), knobs["spare"])[1]}


def one_patch_more(shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
    """Knobs with one patch more at the end of a quarter, or in one block in between."""
    ends = quarter_ends(shape)
    tolerance = 0.5 / shape.patches
    before = 1.0
    for block in sorted(set(ends)):
        names = [name for name, end in zip(KEEP, ends, strict=True) if end == block]
        share, more = knobs[names[0]], knobs[names[0]] + 1 / shape.patches
        high = min(ranges[name].high or 0.0 for name in names)
        # A search space may have narrowed the range; a count at its end is rounded by up to half a patch.
        if share < before and more <= min(before, high) + tolerance:
            yield {**knobs, **dict.fromkeys(names, min(more, 1.0))}
        before = share
    for block in range(chosen_blocks(shape)):
        if block not in ends and not knobs["spare"] >> block & 1:
            yield {**knobs, "spare": knobs["spare"] | 1 << block}


def _on_lines(shape: ViTShape, knobs: Knobs) -> Counts:
    counts: Counts = []
    before = shape.patches
    for name, block in zip(KEEP, quarter_ends(shape), strict=True):
        left, blocks = round(shape.patches * knobs[name]), block + 1 - len(counts)
        counts += [int(before + (left - before) * step / blocks + 0.5) for step in range(1, blocks + 1)]
        before = left
    return counts


def _with_spare(shape: ViTShape, counts: Counts, spare: int) -> tuple[Counts, int]:
    """Counts with one patch more where `spare` has a bit and the block before leaves as many; and the bits that had an effect."""
    ends, out, used, before = quarter_ends(shape), [], 0, shape.patches
    for block, count in enumerate(counts):
        # The end of a quarter has a knob of its own: two ways to the same count would be two recipes.
        if spare >> block & 1 and block not in ends and count < before:
            count, used = count + 1, used | 1 << block
        out.append(count)
        before = count
    return out, used
