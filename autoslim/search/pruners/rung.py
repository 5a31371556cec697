"""`Rung`: compares trials that were trained equally long, each with trials of its own FLOPs."""

from __future__ import annotations

import bisect
import dataclasses
import math

BAND = 0.1
"""Trials are ranked together where their FLOPs differ by at most this share of the trial's own, as those solved onto the same budget do.
Accuracy rises with FLOPs: a wider band would rank trials by their FLOPs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RungEntry:
    """The accuracy of a trial at a rung. `flops` are those that its recipe was solved onto, known before its first step."""

    number: int
    flops: int
    accuracy: float
    epoch: float


class Rung:
    """`keep` is the share of a FLOPs band that continues; a band is ranked from `min_entries` entries on.

    A trial is behind when it is not among the best `keep` of its band; or, where the band has too few entries, when `min_entries` trials of
    no more FLOPs are more accurate. A trial on the rung's own Pareto front is never behind.
    """

    def __init__(self, *, keep: float, min_entries: int) -> None:
        self.keep, self.min_entries = keep, min_entries
        self._entries: dict[int, RungEntry] = {}
        self._by_flops: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def entry_of(self, number: int) -> RungEntry | None:
        return self._entries.get(number)

    def add(self, entry: RungEntry) -> None:
        """The entry of a trial that is run again replaces its earlier one."""
        before = self._entries.get(entry.number)
        if before is not None:
            self._by_flops.remove((before.flops, before.number))
        self._entries[entry.number] = entry
        bisect.insort(self._by_flops, (entry.flops, entry.number))

    def best_accuracy(self, flops: int) -> float:
        """The highest accuracy of trials whose FLOPs are in the band around `flops` or below it; 0 without any."""
        return max((entry.accuracy for entry in self._up_to(flops * (1 + BAND))), default=0.0)

    def reason_to_prune(self, number: int) -> str | None:
        """Why trial `number`, which has an entry here, is behind; None where it is not."""
        own = self._entries[number]
        # On the Pareto front of the rung: nothing of no more FLOPs is better.
        ahead = sum(entry.accuracy > own.accuracy for entry in self._up_to(own.flops))
        if not ahead:
            return None
        band = self._between(own.flops * (1 - BAND), own.flops * (1 + BAND))
        rank = 1 + sum(entry.accuracy > own.accuracy for entry in band)
        if len(band) >= self.min_entries:
            # Rounded up, so that the best of the band always continues.
            last = math.ceil(self.keep * len(band))
            first = "the first continues" if last == 1 else f"the first {last} continue"
            return f"place {rank} of {len(band)} within {BAND:.0%} of its FLOPs, only {first}" if rank > last else None
        # Free trials have FLOPs of their own and hardly a band. That several cheaper ones are better is reason enough.
        return f"{ahead} trials of no more FLOPs are ahead" if ahead >= self.min_entries else None

    def _up_to(self, flops: float) -> list[RungEntry]:
        end = bisect.bisect_right(self._by_flops, (flops, math.inf))
        return [self._entries[number] for _, number in self._by_flops[:end]]

    def _between(self, low: float, high: float) -> list[RungEntry]:
        start = bisect.bisect_left(self._by_flops, (low, -1))
        end = bisect.bisect_right(self._by_flops, (high, math.inf))
        return [self._entries[number] for _, number in self._by_flops[start:end]]
