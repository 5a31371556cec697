"""An epoch of training, the same in every command: as a line, and as a bar."""

from __future__ import annotations

from autoslim.core.figures import format_epochs, format_figure
from autoslim.core.result import EpochReport
from autoslim.core.score import ACCURACY, Score
from autoslim.progress.status import Bar


def epoch_line(report: EpochReport, epochs: float, score: Score = ACCURACY) -> str:
    """`epoch 2/3, finetune, loss 0.812, accuracy 71.4%, 352 images/s, 2% of it waiting for images`; what was not measured is left out."""
    metrics = report.metrics
    parts = [f"epoch {format_epochs(report.epoch)}/{format_epochs(epochs)}", report.phase.value]
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.3f}")
    if "accuracy" in metrics:
        parts.append(f"{score.name} {score.text(metrics['accuracy'])}")
    if "images_per_second" in metrics:
        parts.append(f"{format_figure(metrics['images_per_second'])} images/s")
    if "loader_wait" in metrics:
        parts.append(f"{metrics['loader_wait']:.0%} of it waiting for images")
    return ", ".join(parts)


def epoch_bar(name: str, report: EpochReport, epochs: float, score: Score = ACCURACY) -> Bar:
    """Beside the bar `2/3 epochs`, `loss 0.812`, `71.4%`, `352 images/s`; in the place of what was not measured a dash."""
    metrics = report.metrics
    loss, accuracy, rate = (metrics.get(name) for name in ("loss", "accuracy", "images_per_second"))
    facts = (
        f"{format_epochs(report.epoch)}/{format_epochs(epochs)} epochs",
        f"loss {'-' if loss is None else f'{loss:.3f}'}",
        "-" if accuracy is None else score.text(accuracy),
        "-" if rate is None else f"{format_figure(rate)} images/s",
    )
    return Bar(name=name, done=report.epoch, total=epochs, facts=facts)
