"""The dense models of a search as text: their names, and which of them teaches the trials of which."""

from __future__ import annotations

from autoslim.core.job import SearchJob
from autoslim.core.result import BaseFacts


def model_names(job: SearchJob) -> str:
    """The names as they were given, joined with commas."""
    return ", ".join(model.name for model in job.models)


def describe_teachers(base: BaseFacts) -> list[str]:
    """A sentence without its period for each teacher of several starts, or for one that is no start; none for a model that is its own."""
    if not base.starts:
        return [f"The teacher is {base.teacher['']}"] if base.teacher else []
    taught: dict[str, list[str]] = {}
    for label in base.starts:
        taught.setdefault(base.teacher.get(label, label), []).append(label)
    return [f"{teacher} is the teacher of the trials of {' and '.join(labels)}" for teacher, labels in taught.items()]
