"""`DenseModels`: the adapted dense models of a search, and which of them teaches the trials of each start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from autoslim.core.result import BaseFacts
from autoslim.report.dense_models import describe_teachers
from autoslim.storage.mirror import NO_MIRROR, Mirror
from workers.progress.console import Console
from workers.search.base_model import AdaptedModel, adapt_dense_model
from workers.search.prepare import PreparedSearch


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A dense model that teaches the trials of other starts, too; `name` is its label, or what the job calls it."""

    name: str
    folder: Path


@dataclasses.dataclass(frozen=True)
class DenseModels:
    """`starts` by their labels, the first one first. `teachers` by the label of the start that they teach; one without an entry is its
    own teacher. With a `mirror` their folders may be on other machines only."""

    starts: dict[str, AdaptedModel]
    teachers: dict[str, Teacher]
    mirror: Mirror = NO_MIRROR

    def folder(self, model: str) -> Path:
        """Of the start that a recipe names as its `model`; '' is the first one."""
        return self.of(model).folder

    def of(self, model: str) -> AdaptedModel:
        return self.starts.get(model, self._first)

    @property
    def _first(self) -> AdaptedModel:
        return next(iter(self.starts.values()))

    @property
    def facts(self) -> BaseFacts:
        """The first start's, with those of every start where there are several."""
        several = {label: start.facts for label, start in self.starts.items() if label}
        return self._first.facts.replace(
            starts=several, teacher={label: teacher.name for label, teacher in self.teachers.items()}
        )

    def config(self, model: str) -> dict[str, str]:
        """The keys of a trial's configuration that depend on its recipe's model."""
        teacher = self.teachers.get(model)
        name = self.mirror.name
        return {"base_folder": name(self.folder(model)), "teacher_folder": "" if teacher is None else name(teacher.folder)}


def adapt_dense_models(prepared: PreparedSearch, console: Console, *, check: Callable[[], None] = lambda: None) -> DenseModels:
    """Every start, and a teacher that is none of them, each adapted once. `check` is called after every epoch, and may raise.

    Raises:
        JobError: one cannot be trained.
    """
    job = prepared.job
    starts = {
        label: adapt_dense_model(
            job, spec, prepared.output, prepared.dataset, console, mirror=prepared.mirror, label=label, check=check
        )
        for label, spec in job.starts.items()
    }
    models = DenseModels(starts, _teachers(prepared, starts, console, check), prepared.mirror)
    for line in describe_teachers(models.facts):
        console.on_message(line)
    return models


def _teachers(
    prepared: PreparedSearch, starts: Mapping[str, AdaptedModel], console: Console, check: Callable[[], None]
) -> dict[str, Teacher]:
    job = prepared.job
    if job.teacher is not None and job.teacher not in job.models:
        own = adapt_dense_model(
            job,
            job.teacher,
            prepared.output,
            prepared.dataset,
            console,
            mirror=prepared.mirror,
            label=f"{job.teacher.name} (teacher)",
            check=check,
        )
        return dict.fromkeys(starts, Teacher(job.teacher.name, own.folder))
    found = {}
    for label, student in prepared.starts.items():
        if job.teacher is not None:
            best = list(starts)[job.models.index(job.teacher)]
        else:
            # A batch has the student's image size, so that only models of that size can teach it. Of equals the first one.
            able = [other for other, dense in prepared.starts.items() if dense.shape.image_size == student.shape.image_size]
            best = max(able, key=lambda other: starts[other].facts.dense_accuracy)
        if best != label:
            found[label] = Teacher(best, starts[best].folder)
    return found
