"""How many times as fast a loader is on more cores, beside the machine's ceiling: processes on the same cores that share nothing.

A machine's speed drifts by more than what is measured, with other work on it and with its clock. So processes that are bound to their cores
take turns: one on few cores alone; it together with others that have the rest of the cores; and one on all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from bound_reader import BoundReader, Read

from autoslim.core.record import Record
from autoslim.export.profiling.interleaved import WARM_UP, ratio

WINDOW = 2.0
"""Seconds of whole epochs before the next one's turn; one epoch where that takes longer."""
LEAST_ROUNDS = 5

Ratio = tuple[float, float, float]
"""Median, lower and upper quartile of the rounds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling(Record):
    """Of one loader at one side, `few` and `many` cores: how many times as fast it is on many as on few, and how many times as fast
    processes on few cores each are together, which is the machine's `ceiling`."""

    side: int
    few: int
    many: int
    augmentation: str
    loader: str
    gain: Ratio
    ceiling: Ratio


def measure_scaling(
    open_reader: Callable[..., Read],
    readings: Iterable[tuple[str, str]],
    *,
    side: int,
    cores: Sequence[int],
    few: int,
    seconds: float,
    window: float = WINDOW,
) -> Iterator[Scaling]:
    """Of each of the `readings`, pairs of an augmentation and a loader that `open_reader` takes, on all `cores` and on `few` of them."""
    # Where `few` does not divide them, the last process has fewer.
    parts = [cores[start : start + few] for start in range(0, len(cores), few)]
    with contextlib.ExitStack() as stack:
        apart = [stack.enter_context(BoundReader(open_reader, part)) for part in parts]
        together = stack.enter_context(BoundReader(open_reader, cores))
        for augmentation, loader in readings:
            what = (augmentation, loader)
            for _ in range(WARM_UP):
                _speed([*apart, together], what, 0)
            one, several, all_cores = _in_turns((apart[:1], apart, [together]), what, seconds, window)
            gain, ceiling = ratio(all_cores, one), ratio(several, one)
            yield Scaling(
                side=side,
                few=few,
                many=len(cores),
                augmentation=augmentation,
                loader=loader,
                gain=gain,
                ceiling=ceiling,
            )


def _in_turns(groups: Sequence[Sequence[BoundReader]], what: tuple[str, str], seconds: float, window: float) -> list[list[float]]:
    """The speeds of each group, round by round."""
    speeds: list[list[float]] = [[] for _ in groups]
    order, end = list(range(len(groups))), time.perf_counter() + seconds
    while len(speeds[0]) < LEAST_ROUNDS or time.perf_counter() < end:
        for number in order:
            speeds[number].append(_speed(groups[number], what, window))
        # Every other round runs backwards, so that no group always follows the same one.
        order.reverse()
    return speeds


def _speed(readers: Sequence[BoundReader], what: tuple[str, str], seconds: float) -> float:
    """Epochs a second of all of them together."""
    for reader in readers:
        reader.start(what, seconds)
    return sum(reader.speed() for reader in readers)
