"""From a spec to the job that carries it out, and back, through the `JobField`s of the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel

from autoslim.config.job_field import JobField, build
from autoslim.config.placement import Placement
from autoslim.config.setting import Setting, settings_of
from autoslim.core.job import SearchJob

R = TypeVar("R")
S = TypeVar("S", bound=BaseModel)


def job_of(spec: BaseModel, job_type: type[SearchJob], *, id: str, placement: Placement) -> SearchJob:
    values = {"id": id, **_written(spec, settings_of(type(spec)).values()), **placement.in_job()}
    return build(job_type, values)


def part_of(spec: BaseModel, head: str, record: type[R]) -> R:
    """One of the records in the job, such as its `limits`."""
    written = (
        (field, getattr(spec, setting.name))
        for setting in settings_of(type(spec)).values()
        for field in setting.rules.job
        if field.path.startswith(head + ".")
    )
    return build(record, {field.path.removeprefix(head + "."): field.write(value, spec) for field, value in written})


def spec_of_job(model: type[S], job: SearchJob) -> S:
    values = {setting.name: _read(setting.rules.job[0], job) for setting in settings_of(model).values() if setting.rules.job}
    return model.model_validate(values)


def written_by(spec: BaseModel, setting: Setting) -> dict[str, Any]:
    """The values that a setting writes into the job, by path."""
    return _written(spec, [setting])


def _written(spec: BaseModel, settings: Iterable[Setting]) -> dict[str, Any]:
    return {field.path: field.write(getattr(spec, setting.name), spec) for setting in settings for field in setting.rules.job}


def _read(field: JobField, job: SearchJob) -> Any:
    return field.read(field.value_in(job), job)
