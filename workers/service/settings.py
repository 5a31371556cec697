"""What the operator decides for drivers: where jobs are kept, run and logged. It reaches a driver through its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from autoslim.config import Placement, SpecError, TrialPlacement, validated, variable_name
from autoslim.core.urls import hide_password
from autoslim.errors import RequestError


class DriverSettings(TrialPlacement):
    """`root` has a folder for each job, on a file system that all nodes share. `storage` is the only setting that may hold a secret.

    A driver renews its lease four times per `lease_seconds`; when it loses the lease, another driver takes over its job.
    """

    # The text of a pydantic error quotes its input, which has the database's password in it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    storage: str = Field(repr=False, description="SQLAlchemy URL of the store; may hold a password.")
    root: Path = Field(description="Folder with a folder for each job, on a file system that all nodes share.")
    lease_seconds: float = Field(
        default=60.0,
        ge=1.0,
        le=3600.0,
        description="Seconds after which a lease that is not renewed expires and another driver takes over; four renewals fit into them.",
    )
    niceness: int = Field(
        # The scheduler then gives the API's thread nine tenths of a CPU that a trial wants, too; an idle CPU is all the trial's.
        default=10,
        ge=0,
        le=19,
        description="Added to the niceness of drivers on the service's machine and their trials, so that the API answers while they train.",
    )

    def folder(self, job_id: str) -> Path:
        return self.root / "jobs" / job_id

    def log(self, job_id: str, attempt: int) -> Path:
        return self.folder(job_id) / "logs" / f"attempt-{attempt}.log"

    def placement(self, job_id: str) -> Placement:
        """Without the storage, which may hold a password: a job's record must not."""
        return Placement(output=str(self.folder(job_id)), **{name: getattr(self, name) for name in TrialPlacement.model_fields})

    def environment(self, *, secrets: bool) -> dict[str, str]:
        """Variables that `read_driver_settings` understands; without `secrets`, only those that anybody may see."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        if not secrets and hide_password(self.storage) != self.storage:
            del values["storage"]
        return {variable_name(name): _text(value) for name, value in values.items() if value is not None}


def read_driver_settings(environ: Mapping[str, str] = os.environ) -> DriverSettings:
    """From AUTOSLIM_STORAGE, AUTOSLIM_ROOT and the variables of the other fields.

    Raises:
        RequestError: naming the variable and what is allowed.
    """
    names = [name for name in DriverSettings.model_fields if environ.get(variable_name(name))]
    values: dict[str, Any] = {name: environ[variable_name(name)] for name in names}
    try:
        return validated(DriverSettings, lambda: DriverSettings.model_validate(values))
    except SpecError as error:
        raise RequestError(str(error.named(lambda issue: variable_name(str(issue.place[0]))))) from None


def _text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
