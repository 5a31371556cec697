"""A resumed search keeps the settings that it was started with, but for those that may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoslim.cli.parsing import CliInput, fields_of, placement_of, spec_of
from autoslim.config import JobSpec, Placement, read_mapping, settings_of
from autoslim.config.job_field import replaced
from autoslim.config.mapping import written_by
from autoslim.core.job import SearchJob
from autoslim.errors import RequestError


def resumed_job(job: SearchJob, cli_input: CliInput, file: Path | None, output: Path) -> SearchJob:
    """The job as it was started, with what may change taken from the flags and the job file.

    AUTOSLIM_* variables may have changed since for other reasons; only flags and the job file are compared with the job.

    Raises:
        RequestError: when a flag, or a field of the file, differs from a setting that a resumed search keeps.
    """
    flags = CliInput(flags=cli_input.flags, environment={})
    started = JobSpec.of_job(job)
    asked, given = _asked(started, flags, file)
    changes: dict[str, Any] = {}
    for setting in settings_of(JobSpec).values():
        if setting.name in given:
            written = written_by(asked, setting)
            if setting.rules.resumable:
                changes |= written
            elif any(value != now for value, now in zip(written.values(), setting.values_in(job), strict=True)):
                raise _kept(flags.name(setting), getattr(asked, setting.name), getattr(started, setting.name))
    return replaced(job, changes | _placed(job, flags, output))


def _asked(started: JobSpec, flags: CliInput, file: Path | None) -> tuple[JobSpec, set[str]]:
    """The spec, and the fields of it that the user gave."""
    if file is not None:
        spec = spec_of(flags, file)
        return spec, spec.model_fields_set
    given = fields_of(flags, JobSpec)
    return read_mapping({**started.model_dump(mode="json"), **given}) if given else started, set(given)


def _placed(job: SearchJob, flags: CliInput, output: Path) -> dict[str, Any]:
    placement = placement_of(flags, output)
    changes: dict[str, Any] = {}
    for setting in settings_of(Placement).values():
        value, now = getattr(placement, setting.name), getattr(job, setting.name)
        if setting.name not in placement.model_fields_set:
            continue
        if not setting.rules.resumable and value != now:
            raise _kept(setting.flag, value, now)
        changes[setting.name] = value
    return changes


def _kept(name: str, asked: Any, started: Any) -> RequestError:
    return RequestError(f"{name} is {asked!r}, but this search started with {started!r}, and a resumed search cannot change it")
