"""`Placement`: where a job runs and writes. The operator decides this, so that it is never part of a spec."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from autoslim.config.job_field import JobField
from autoslim.config.setting import Commands, Group, Rules, setting
from autoslim.core.job import Resources
from autoslim.core.urls import has_password


def _resources(value: Any) -> Any:
    return Resources.parse(value) if isinstance(value, str) else value


def _rules(path: str, **rules: Any) -> Rules:
    return Rules(group=Group.PLACEMENT, job=(JobField(path),), decides_plan=False, **rules)


def _without_password(url: str) -> str:
    if has_password(url):
        # Not the text itself.
        raise ValueError(
            "has a password in it, which would be written into the job's files; allowed: a URL without one, and the password in the "
            "environment: PGPASSWORD or PGPASSFILE for a database, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for MLflow"
        )
    return url


Url = Annotated[str, AfterValidator(_without_password)]
"""Stands in the job's record, in `job.json` and perhaps in an object store."""


class TrialPlacement(BaseModel):
    """Where trials run. None means what it means in `SearchJob`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resources: Annotated[Resources | None, BeforeValidator(_resources)] = setting(
        "Devices that a trial reserves, such as gpu=1,cpu=4; trials with a fraction share a device, one with several GPUs trains on all.",
        _rules("resources", resumable=True, flag_type=str, shown_default="one GPU, or one CPU where there is none"),
    )
    concurrency: int | None = setting(
        "Maximum number of trials at a time.", _rules("concurrency", resumable=True, shown_default="as many as fit"), ge=1
    )
    threads: int | None = setting(
        "Threads of a trial's computations; reserves no CPU, which `resources` does.",
        _rules("threads", resumable=True, shown_default="one for each CPU that a trial reserves"),
        ge=1,
    )
    address: str | None = setting(
        "Address of a Ray cluster.", _rules("address", resumable=True, shown_default="a local Ray on loopback")
    )
    tracking_uri: Url | None = setting(
        "URI of an MLflow server.", _rules("tracking_uri", resumable=True, shown_default="SQLite in the output folder")
    )


class Placement(TrialPlacement):
    """`output` is the job's folder."""

    storage: Url | None = setting("SQLAlchemy URL of the store.", _rules("storage", shown_default="SQLite in the output folder"))
    output: str = setting(
        "Folder of all files of the job, or its URI, such as s3://bucket/runs/flowers.",
        _rules("output", commands=Commands.NONE, resumable=True),
    )

    def in_job(self) -> dict[str, Any]:
        """The fields of `SearchJob` with the same names."""
        return {name: getattr(self, name) for name in type(self).model_fields}
