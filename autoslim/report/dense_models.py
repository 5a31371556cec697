"""The dense models of a search as text: their names, and which of them teaches the trials of which."""

from __future__ import annotations

from autoslim.core.interval import wilson
from autoslim.core.job import SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import BaseFacts

_HARDLY = 0.05
"""Of the way from a constant guess to a perfect model."""


def model_names(job: SearchJob) -> str:
    """The names as they were given, joined with commas."""
    return ", ".join(model.name for model in job.models)


def chance_warning(facts: BaseFacts, images: int, training: TrainingSettings) -> str | None:
    """What to raise where the dense model, measured on `images`, may be no better than a constant guess; None where it is better."""
    enough = facts.chance + _HARDLY * (1 - facts.chance)
    if wilson(facts.dense_accuracy, images).low > enough:
        return None
    head = f"its {facts.dense_accuracy:.1%} on {images:,} validation images"
    guess = f"always naming one class ({facts.chance:.1%})"
    if facts.dense_accuracy > enough:
        return f"{head} cannot be told from {guess}: they are too few, give more, or raise --validation-share"
    return (
        f"{head} is hardly better than {guess}, and slimmed models are compared with it; raise --base-epochs (now {training.epochs:g}) or "
        f"change --base-lr (now {training.lr:.3g}), or give weights that were trained on more images with --weights"
    )


def describe_teachers(base: BaseFacts) -> list[str]:
    """A sentence without its period for each teacher of several starts, or for one that is no start; none for a model that is its own."""
    if not base.starts:
        return [f"The teacher is {base.teacher['']}"] if base.teacher else []
    taught: dict[str, list[str]] = {}
    for label in base.starts:
        taught.setdefault(base.teacher.get(label, label), []).append(label)
    return [f"{teacher} is the teacher of the trials of {' and '.join(labels)}" for teacher, labels in taught.items()]
