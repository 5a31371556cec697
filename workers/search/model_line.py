"""A chosen model in a line: its accuracy on the test images beside the dense model's, and how much faster it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoslim.core.score import SCORES
from autoslim.report.beside_dense import describe_accuracy, describe_speed

if TYPE_CHECKING:
    # Ray comes with them.
    from workers.search.finalize import SelectedModel
    from workers.search.summary import Summary


def describe_model(model: SelectedModel, summary: Summary) -> str:
    """`test 71.10% (70.2% to 72.0%), 1.9 points below the dense model; 1.62 times as fast (eager, CPU, batch 1)`, or which earlier one of
    the summary is the same model."""
    first = next((other.label for other in summary.models if other.trial == model.trial), model.label)
    if first != model.label:
        return f"the same model as {first}"
    images, score = summary.images.get("test"), SCORES[summary.score]
    parts = [describe_accuracy(score, model.test_accuracy, model.dense_test_accuracy, images)]
    if model.probe is not None:
        parts.append(model.probe.describe())
    return "; ".join([*parts, *filter(None, [describe_speed(summary.speeds.get(model.label))])])
