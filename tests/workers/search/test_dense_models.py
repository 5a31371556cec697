"""Which dense model teaches the trials of which start, and what each start's trials and models are given."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.sample_search import DENSE, make_job
from helpers.tiny import make_dense

from autoslim.core.job import ModelSpec
from autoslim.progress.display import LineDisplay
from autoslim.report.dense_models import describe_teachers
from autoslim.storage.mirror import NO_MIRROR
from workers.progress.console import Console
from workers.search import dense_models
from workers.search.base_model import AdaptedModel
from workers.search.dense_models import adapt_dense_models

SIZES = {"a": 32, "b": 32, "c": 64}


class Adapted:
    """Stands for the cluster: every model is as accurate as `accuracies` say, and is asked for once."""

    def __init__(self, accuracies: dict[str, float]) -> None:
        self.accuracies, self.asked = accuracies, []

    def __call__(self, job: Any, model: ModelSpec, output: Any, dataset: Any, console: Any, **named: Any) -> AdaptedModel:
        self.asked.append(model.name)
        return AdaptedModel(Path("/cache") / model.name, DENSE.replace(dense_accuracy=self.accuracies[model.name]))


def adapt(monkeypatch: pytest.MonkeyPatch, names: str, accuracies: dict[str, float], teacher: str | None = None) -> Any:
    specs = {name: ModelSpec(name=name) for name in accuracies}
    first, *others = (specs[name] for name in names)
    job = make_job(model=first, more_models=tuple(others), teacher=None if teacher is None else specs[teacher])
    cluster = Adapted(accuracies)
    monkeypatch.setattr(dense_models, "adapt_dense_model", cluster)
    starts = {label: make_dense(img_size=SIZES[spec.name]) for label, spec in job.starts.items()}
    prepared: Any = SimpleNamespace(job=job, output=None, dataset=None, starts=starts, mirror=NO_MIRROR)
    told = io.StringIO()
    return adapt_dense_models(prepared, Console(job, LineDisplay(told))), cluster.asked, told.getvalue()


def test_the_most_accurate_model_teaches_all_and_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    models, asked, told = adapt(monkeypatch, "ab", {"a": 0.7, "b": 0.9})
    assert asked == ["a", "b"]
    assert models.config("a") == {"base_folder": "/cache/a", "teacher_folder": "/cache/b"}
    assert models.config("b") == {"base_folder": "/cache/b", "teacher_folder": ""}
    assert "b is the teacher of the trials of a and b" in told
    assert models.facts.teacher == {"a": "b"}
    assert {label: facts.dense_accuracy for label, facts in models.facts.starts.items()} == {"a": 0.7, "b": 0.9}
    assert models.facts.dense_accuracy == 0.7


def test_of_equally_accurate_models_the_first_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    models, _, _ = adapt(monkeypatch, "ba", {"b": 0.9, "a": 0.9})
    assert models.facts.teacher == {"a": "b"}


def test_a_student_is_taught_by_a_model_of_its_own_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    models, _, told = adapt(monkeypatch, "abc", {"a": 0.7, "b": 0.8, "c": 0.9})
    assert models.facts.teacher == {"a": "b"}
    assert "c is the teacher of the trials of c\n" in told


def test_a_start_may_be_named_as_the_teacher_and_is_adapted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    models, asked, _ = adapt(monkeypatch, "ab", {"a": 0.7, "b": 0.9}, teacher="a")
    assert asked == ["a", "b"]
    assert models.facts.teacher == {"b": "a"}


def test_another_model_may_teach_and_is_adapted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    models, asked, _ = adapt(monkeypatch, "a", {"a": 0.7, "b": 0.9}, teacher="b")
    assert asked == ["a", "b"]
    assert models.config("") == {"base_folder": "/cache/a", "teacher_folder": "/cache/b"}
    assert describe_teachers(models.facts) == ["The teacher is b"]


def test_one_model_is_told_of_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    models, asked, told = adapt(monkeypatch, "a", {"a": 0.7})
    assert (asked, told) == (["a"], "")
    assert models.facts == dataclasses.replace(DENSE, dense_accuracy=0.7)
    assert models.config("") == {"base_folder": "/cache/a", "teacher_folder": ""}
