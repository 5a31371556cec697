"""A chosen model in a line: its accuracy on the test images beside the dense model's, and how much faster it is."""

from __future__ import annotations

from autoslim.core.interval import wilson
from autoslim.core.score import ACCURACY, SCORES
from autoslim.core.speed import Timing
from workers.search.finalize import SelectedModel
from workers.search.summary import Summary


def describe_model(model: SelectedModel, summary: Summary) -> str:
    """`test 71.10% (70.2% to 72.0%), 1.9 points below the dense model; 1.62 times as fast (eager, CPU, batch 1)`, or which earlier one of
    the summary is the same model."""
    first = next((other.label for other in summary.models if other.trial == model.trial), model.label)
    if first != model.label:
        return f"the same model as {first}"
    parts = [_against_dense(model, summary)]
    if model.probe is not None:
        parts.append(model.probe.describe())
    speed = summary.speeds.get(model.label)
    if speed is not None and speed.fastest is not None:
        parts.append(_faster(speed.fastest))
    return "; ".join(parts)


def _against_dense(model: SelectedModel, summary: Summary) -> str:
    score, images = SCORES[summary.score], summary.images.get("test", 0)
    difference = model.test_accuracy - model.dense_test_accuracy
    amount = score.drop(round(100 * abs(difference), 2))
    beside = f"{amount} {'below' if difference < 0 else 'above'} the dense model" if difference else "as the dense model"
    text = f"test {score.text(model.test_accuracy, 2)}"
    if score is not ACCURACY or not images:
        return f"{text}, {beside}"
    interval = wilson(model.test_accuracy, images)
    within = ", within the noise" if interval.low <= model.dense_test_accuracy <= interval.high else ""
    return f"{text} ({interval.low:.1%} to {interval.high:.1%}), {beside}{within}"


def _faster(timing: Timing) -> str:
    doubt = "" if timing.is_reliable else f"; unreliable: half of the rounds are from {timing.low:.2f} to {timing.high:.2f}"
    return f"{timing.speedup:.2f} times as fast ({timing.mode}, {timing.device.upper()}, batch {timing.batch}{doubt})"
