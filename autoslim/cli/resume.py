"""The job of `search --resume`: what is in the folder, changed by flags and the job file."""

from __future__ import annotations

from pathlib import Path

from autoslim.cli.parsing import CliInput, fields_of, placement_of, spec_of
from autoslim.config import JobSpec, read_mapping
from autoslim.config.resumed import resumed
from autoslim.core.job import SearchJob


def resumed_job(job: SearchJob, cli_input: CliInput, file: Path | None, output: Path) -> SearchJob:
    """The job as it was started, with what may change taken from the flags and the job file.

    AUTOSLIM_* variables may have changed since for other reasons; only flags and the job file are compared with the job.

    Raises:
        RequestError: when a flag, or a field of the file, differs from a setting that a resumed search keeps.
    """
    flags = CliInput(flags=cli_input.flags, environment={})
    asked, given = _asked(JobSpec.of_job(job), flags, file)
    return resumed(job, asked, given, placement_of(flags, output), name=flags.name)


def _asked(started: JobSpec, flags: CliInput, file: Path | None) -> tuple[JobSpec, set[str]]:
    """The spec, and the fields of it that the user gave."""
    if file is not None:
        spec = spec_of(flags, file)
        return spec, spec.model_fields_set
    given = fields_of(flags, JobSpec)
    return read_mapping({**started.model_dump(mode="json"), **given}) if given else started, set(given)
