"""A rung: where trials that have trained equally long are compared, each with those of its own FLOPs only."""

from __future__ import annotations

import bisect
import dataclasses
import math

BAND = 0.1
"""Trials are compared by rank where their FLOPs are this close, as a share of the trial's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RungEntry:
    """What a trial showed at a rung. `flops` are those its recipe was solved onto, known before its first step."""

    number: int
    flops: int
    accuracy: float
    epoch: float


class Rung:
    """`keep` is the share of a FLOPs band that goes on; `least` marks make a band that is worth ranking.

    A trial is behind when it is not among the best `keep` of its band, or where too few are in its band, when `least` trials that are
    no dearer are ahead of it. One that no other dominates, no dearer and more accurate, is never behind: it is the rung's own front.
    """

    def __init__(self, *, keep: float, least: int) -> None:
        self.keep, self.least = keep, least
        self._marks: dict[int, RungEntry] = {}
        self._by_flops: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._marks)

    def mark_of(self, number: int) -> RungEntry | None:
        return self._marks.get(number)

    def put(self, mark: RungEntry) -> None:
        """A trial that is run again takes its earlier mark's place."""
        before = self._marks.get(mark.number)
        if before is not None:
            self._by_flops.remove((before.flops, before.number))
        self._marks[mark.number] = mark
        bisect.insort(self._by_flops, (mark.flops, mark.number))

    def best_near(self, flops: int) -> float:
        """The highest accuracy within the band around `flops`, or of anything no dearer."""
        return max((mark.accuracy for mark in self._up_to(flops * (1 + BAND))), default=0.0)

    def behind(self, number: int) -> str | None:
        """Why this trial, which has its mark here, is not worth going on with; None while it is."""
        mine = self._marks[number]
        ahead = sum(mark.accuracy > mine.accuracy for mark in self._up_to(mine.flops))
        if not ahead:
            return None
        band = self._between(mine.flops * (1 - BAND), mine.flops * (1 + BAND))
        rank = 1 + sum(mark.accuracy > mine.accuracy for mark in band)
        if len(band) >= self.least:
            last = math.ceil(self.keep * len(band))
            return f"place {rank} of {len(band)} within {BAND:.0%} of its FLOPs, the first {last} go on" if rank > last else None
        return f"{ahead} trials that are no dearer are ahead of it" if ahead >= self.least else None

    def _up_to(self, flops: float) -> list[RungEntry]:
        end = bisect.bisect_right(self._by_flops, (flops, math.inf))
        return [self._marks[number] for _, number in self._by_flops[:end]]

    def _between(self, low: float, high: float) -> list[RungEntry]:
        start = bisect.bisect_left(self._by_flops, (low, -1))
        end = bisect.bisect_right(self._by_flops, (high, math.inf))
        return [self._marks[number] for _, number in self._by_flops[start:end]]
