"""A model beside its dense one, in words: its accuracy on the test images, and how much faster it is."""

from __future__ import annotations

from autoslim.core.interval import wilson
from autoslim.core.score import ACCURACY, Score
from autoslim.core.speed import SpeedReport


def describe_accuracy(score: Score, value: float, dense: float, images: int | None) -> str:
    """`test 71.10% (70.2% to 72.0%), 1.9 points below the dense model`; `value` and `dense` are shares of the same test `images`."""
    difference = value - dense
    amount = score.drop(round(100 * abs(difference), 2))
    beside = f"{amount} {'below' if difference < 0 else 'above'} the dense model" if difference else "as the dense model"
    within = ""
    if score is ACCURACY and images:
        interval = wilson(value, images)
        within = ", within the noise" if interval.low <= dense <= interval.high else ""
    return f"test {score.spoken(value, images)}, {beside}{within}"


def describe_speed(speed: SpeedReport | None) -> str:
    """`1.62 times as fast (eager, CPU, batch 1)`, in the fastest way to run one image; empty where none was measured."""
    timing = None if speed is None else speed.fastest
    if timing is None:
        return ""
    doubt = "" if timing.is_reliable else f"; unreliable: half of the rounds are from {timing.low:.2f} to {timing.high:.2f}"
    return f"{timing.speedup:.2f} times as fast ({timing.mode}, {timing.device.upper()}, batch {timing.batch}{doubt})"
