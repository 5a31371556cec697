"""The knob `keep`: the same share of every layer, a stand-in for a ranking that is only known once it is measured.

The solver moves `keep` onto the budget; the pruning fills the same budget in the order of the ranking.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

NARROWEST = 0.02
"""The least `keep`: below a fiftieth of the widths no model is of use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptShare:
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


def canonical_share(parts: Sequence[KeptShare], keep: float) -> float:
    """The middle of the shares that give all `parts` the same counts, so that equal plans are equal recipes."""
    if keep >= 1:
        return keep
    # Every `keep` in the intersection of the parts' intervals gives all of them the same counts.
    spans = [part.span(keep) for part in parts]
    low, high = max(low for low, _ in spans), min(high for _, high in spans)
    return (max(low, NARROWEST) + min(high, 1.0)) / 2
