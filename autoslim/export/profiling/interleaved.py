"""Times several functions in turns, so that other work on the machine affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Run = Callable[[], None]
WARM_UP = 2
"""Calls of every function before the measurement, which fill caches and trigger compilation."""

MOST_ROUNDS = 200

Clock = Callable[[], float]
"""Returns seconds since an arbitrary moment."""


def time_interleaved(
    runs: Sequence[Run], *, seconds: float, at_least: int = 5, at_most: int = MOST_ROUNDS, clock: Clock = time.perf_counter
) -> list[list[float]]:
    """The seconds of every call, one list per function, in rounds in which each function runs once.

    Rounds continue until `seconds` have passed, but there are at least `at_least` and at most `at_most`. `WARM_UP` calls come first and
    are not timed.
    """
    for run in runs:
        for _ in range(WARM_UP):
            run()
    timings: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    # The end is in wall time, even where `clock` measures CPU time: the caller waits in wall time.
    end = time.perf_counter() + seconds
    while len(timings[0]) < at_least or (time.perf_counter() < end and len(timings[0]) < at_most):
        for number in order:
            began = clock()
            runs[number]()
            timings[number].append(clock() - began)
        # Every other round runs backwards, so that no function always follows the same one.
        order.reverse()
    return timings


def clock_of(device: str, threads: int) -> Clock:
    """The clock to measure with: on a CPU with one thread that thread's CPU time, which leaves out waiting for other processes."""
    return time.thread_time if device == "cpu" and threads == 1 else time.perf_counter


def lower_quartile(timings: Sequence[float]) -> float:
    """The lower quartile of `timings`, a robust minimum: other work on the machine makes some rounds longer and none shorter."""
    return statistics.quantiles(timings, n=4, method="inclusive")[0]


def ratio(timings: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of `timings` to `others`, round by round: median, lower and upper quartile."""
    ratios = [timing / other for timing, other in zip(timings, others, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high
