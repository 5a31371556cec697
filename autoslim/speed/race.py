"""Timing several functions against each other: in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Run = Callable[[], None]
WARM_UP = 2
MOST_ROUNDS = 200


def race(runs: Sequence[Run], *, seconds: float, at_least: int = 5) -> list[list[float]]:
    """Seconds of every run, one list a function, in rounds in which each runs once; every other round goes backwards.

    Rounds go on until `seconds` are over, `at_least` so many. The first calls, in which caches are filled, do not count.
    """
    for run in runs:
        for _ in range(WARM_UP):
            run()
    laps: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    end = time.perf_counter() + seconds
    while len(laps[0]) < at_least or (time.perf_counter() < end and len(laps[0]) < MOST_ROUNDS):
        for number in order:
            began = time.perf_counter()
            runs[number]()
            laps[number].append(time.perf_counter() - began)
        order.reverse()
    return laps


def ratio(laps: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """How many times as long `laps` took as `others`, round by round: median, lower and upper quartile."""
    ratios = [lap / other for lap, other in zip(laps, others, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high
