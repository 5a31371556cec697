"""`AccuracyDrop`: what a slimmed model loses against its dense model on the same images, and how sure that is."""

from __future__ import annotations

import dataclasses

from autoslim.core.interval import Interval
from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccuracyDrop(Record):
    """`drop` is the dense model's accuracy less the slimmed one's on the `images` of a `split`, paired; `allowed` is what may be lost."""

    split: str
    images: int
    drop: Interval
    allowed: float

    def describe(self) -> str:
        """`1.20 points lost on 500 validation images (95 %: 0.10 to 2.30, paired): ...` with what the interval says of what is allowed."""
        value, low, high = (100 * share for share in (self.drop.value, self.drop.low, self.drop.high))
        amount = f"{value:.2f} points lost on {self.images:,} {self.split} images (95 %: {low:.2f} to {high:.2f}, paired)"
        return f"{amount}: {'; '.join(self._verdicts())}"

    def _verdicts(self) -> list[str]:
        allowed = f"the allowed {100 * self.allowed:.3g}"
        if self.drop.high <= self.allowed:
            found = [f"the whole interval is within {allowed}"]
        elif self.drop.low <= self.allowed:
            found = [f"{allowed} lie in the interval, so that other images may show more"]
        else:
            found = [f"the whole interval is beyond {allowed}"]
        within_noise = self.drop.low <= 0 <= self.drop.high
        return [*found, "a drop of 0 lies in it, too: it is within the noise"] if within_noise else found
