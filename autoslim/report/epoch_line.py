"""An epoch of training in a line, the same in every command."""

from __future__ import annotations

from autoslim.core.result import EpochReport
from autoslim.core.score import ACCURACY, Score


def epoch_line(report: EpochReport, epochs: float, score: Score = ACCURACY) -> str:
    """`epoch 2/3, finetune, loss 0.812, accuracy 71.4%, 352 images/s, 2% of it waiting for images`; what was not measured is left out."""
    metrics = report.metrics
    parts = [f"epoch {report.epoch:.3g}/{epochs:g}", report.phase.value]
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.3f}")
    if "accuracy" in metrics:
        parts.append(f"{score.name} {score.text(metrics['accuracy'])}")
    if "images_per_second" in metrics:
        parts.append(f"{metrics['images_per_second']:.3g} images/s")
    if "loader_wait" in metrics:
        parts.append(f"{metrics['loader_wait']:.0%} of it waiting for images")
    return ", ".join(parts)
