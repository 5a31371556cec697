"""A resumed search keeps the settings that it was started with, but for those that may change."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from autoslim.config.job_field import replaced
from autoslim.config.job_spec import JobSpec
from autoslim.config.mapping import written_by
from autoslim.config.placement import Placement
from autoslim.config.setting import Setting, settings_of
from autoslim.core.job import SearchJob
from autoslim.core.urls import hide_password
from autoslim.errors import RequestError


def resumed(
    job: SearchJob, asked: JobSpec, given: Collection[str], placement: Placement, *, name: Callable[[Setting], str]
) -> SearchJob:
    """The job as it was started, with what may change taken from `asked` and `placement`.

    `given` are the fields of `asked` that the user set; `name` is how the user writes a setting, for errors.

    Raises:
        RequestError: when a given field differs from a setting that a resumed search keeps.
    """
    started = JobSpec.of_job(job)
    changes: dict[str, Any] = {}
    for setting in settings_of(JobSpec).values():
        if setting.name in given:
            written = written_by(asked, setting)
            if setting.rules.resumable:
                changes |= written
            elif any(value != now for value, now in zip(written.values(), setting.values_in(job), strict=True)):
                raise _kept(name(setting), getattr(asked, setting.name), getattr(started, setting.name))
    return replaced(job, changes | _placed(job, placement, name))


def _placed(job: SearchJob, placement: Placement, name: Callable[[Setting], str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for setting in settings_of(Placement).values():
        value, now = getattr(placement, setting.name), getattr(job, setting.name)
        if setting.name not in placement.model_fields_set:
            continue
        if not setting.rules.resumable and value != now:
            raise _kept(name(setting), value, now)
        changes[setting.name] = value
    return changes


def _kept(name: str, asked: Any, started: Any) -> RequestError:
    # The job.json of an older version may have a password in an address.
    message = f"{name} is {asked!r}, but this search started with {started!r}, and a resumed search cannot change it"
    return RequestError(hide_password(message))
