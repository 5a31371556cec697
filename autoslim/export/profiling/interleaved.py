"""Timing several functions against each other: in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Run = Callable[[], None]
WARM_UP = 2
MOST_ROUNDS = 200


Clock = Callable[[], float]
"""Seconds since some moment."""


def time_interleaved(
    runs: Sequence[Run], *, seconds: float, at_least: int = 5, at_most: int = MOST_ROUNDS, clock: Clock = time.perf_counter
) -> list[list[float]]:
    """Seconds of every run, one list a function, in rounds in which each runs once; every other round goes backwards.

    Rounds go on until `seconds` are over, `at_least` and `at_most` so many. The first calls, in which caches are filled, do not count.
    """
    for run in runs:
        for _ in range(WARM_UP):
            run()
    timings: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    end = time.perf_counter() + seconds
    while len(timings[0]) < at_least or (time.perf_counter() < end and len(timings[0]) < at_most):
        for number in order:
            began = clock()
            runs[number]()
            timings[number].append(clock() - began)
        order.reverse()
    return timings


def clock_of(device: str, threads: int) -> Clock:
    """Of one thread on a processor its own time: waiting for other work on the machine is no part of it."""
    return time.thread_time if device == "cpu" and threads == 1 else time.perf_counter


def lower_quartile(timings: Sequence[float]) -> float:
    """The lower quartile: what else the machine does makes some laps longer, and none shorter."""
    return statistics.quantiles(timings, n=4, method="inclusive")[0]


def ratio(timings: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """How many times as long `timings` took as `others`, round by round: median, lower and upper quartile."""
    ratios = [timing / other for timing, other in zip(timings, others, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high
