"""The stages that a recipe's knobs give: how many patches each makes, and how many each block computes."""

from __future__ import annotations

from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape


def stages(shape: ViTShape, knobs: Knobs) -> dict[int, int]:
    """The patches that each slimming module makes, by the block behind it; a stage that slims nothing is left out."""
    made: dict[int, int] = {}
    before = shape.patches
    for k in range(1, knobs["stages"] + 1):
        patches = _count(knobs[f"keep_ratio_{k}"], shape, before)
        # A ratio that keeps every patch makes no stage: its module would cost FLOPs and remove nothing.
        if 0 < patches < before:
            made[knobs[f"stage_layer_{k}"]] = before = patches
    return made


def _count(ratio: float, shape: ViTShape, before: int) -> int:
    """int(patches * ratio), as in the code, but at least one, and fewer than `before` unless the ratio keeps every patch."""
    patches = max(1, int(shape.patches * ratio))
    return patches if patches == shape.patches else min(patches, before - 1)


def ratio_of(patches: int, shape: ViTShape) -> float:
    """The ratio in the middle of those that `_count` rounds to `patches`."""
    return min((patches + 0.5) / shape.patches, 1.0)


def slimming_steps(shape: ViTShape, knobs: Knobs) -> dict[int, tuple[int, int]]:
    """Patches into and out of each slimming module, by the block behind it, the spare one included."""
    steps, before, made = {}, shape.patches, stages(shape, knobs)
    for block, patches in made.items():
        # The last stage makes the fewest. Its spare patch fills what a further patch in all blocks would overshoot.
        spare = 1 if knobs["spare_until"] and patches == min(made.values()) else 0
        steps[block] = (before, patches + spare)
        before = patches
    return steps


def patches_of_blocks(shape: ViTShape, knobs: Knobs) -> list[int]:
    """Patches that each block computes."""
    steps, counts, current = slimming_steps(shape, knobs), [], shape.patches
    for block in range(shape.depth):
        current = steps[block][1] if block in steps else current
        # 0 says that there is no spare patch, not that it ends at block 0.
        current -= block == knobs["spare_until"] > 0
        counts.append(current)
    return counts


def patches_behind(shape: ViTShape, knobs: Knobs) -> list[int]:
    """Patches that are left behind each block, where a module behind it has slimmed them: those that the next block computes."""
    counts = patches_of_blocks(shape, knobs)
    return [*counts[1:], counts[-1]]


def may_spare(shape: ViTShape, knobs: Knobs, until: int) -> bool:
    """Whether the last stage still slims with one token more, and `until` is behind it."""
    made = stages(shape, knobs)
    if not made:
        return False
    before = ([shape.patches, *made.values()])[-2]
    return max(made) < until < shape.depth and min(made.values()) + 1 < before
