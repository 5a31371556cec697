"""The plan before there is a ranking: every layer keeps the same share of each part, as a function of the knob `keep`."""

from __future__ import annotations

import dataclasses
import math

from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.vit_slim.ranking_options import ranking_options


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartShare:
    """One part's share as a function of `keep`, the same in every layer: slope * keep + 1 - slope, but at least `floor`."""

    size: int
    multiple: int
    slope: float
    floor: float

    def kept(self, keep: float) -> int:
        count = int(self.size * max(self.slope * keep + (1 - self.slope), self.floor))
        # Never 0: whole heads and sub-layers go by the ranking alone.
        return self.size if count >= self.size else max(count // self.multiple * self.multiple, min(self.multiple, self.size))

    def span(self, keep: float) -> tuple[float, float]:
        """The interval of `keep` in which the count is the same as at `keep`."""
        count = self.kept(keep)
        low = -math.inf if count == self.kept(0.0) else self._keep_at(count)
        high = (
            math.inf
            if count == self.size
            else self._keep_at(min(count // self.multiple * self.multiple + self.multiple, self.size))
        )
        return low, high

    def _keep_at(self, count: int) -> float:
        return (count / self.size - (1 - self.slope)) / self.slope if self.slope else math.inf


def parts_of(shape: ViTShape, knobs: Knobs) -> tuple[PartShare, PartShare, PartShare]:
    """The parts: head width, hidden units, patches."""
    options = ranking_options(knobs)
    if options.rule == "fall":
        slopes = (1 - options.patch_share, 1 - options.patch_share, options.patch_share)
        floors = (1 - options.removable[0], 1 - options.removable[1], 0.0)
    else:
        slopes, floors = options.removable, (0.0, 0.0, 0.0)
    multiple = options.width_multiple
    return (
        PartShare(size=shape.head_width, multiple=multiple, slope=slopes[0], floor=floors[0]),
        PartShare(size=shape.hidden, multiple=multiple, slope=slopes[1], floor=floors[1]),
        PartShare(size=shape.patches, multiple=1, slope=slopes[2], floor=floors[2]),
    )
