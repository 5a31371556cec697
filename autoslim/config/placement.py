"""`Placement`: where a job runs and writes. The operator decides this, so that it is never part of a spec."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from autoslim.config.job_field import JobField
from autoslim.config.setting import Commands, Group, Rules, setting
from autoslim.core.job import Resources


def _resources(value: Any) -> Any:
    return Resources.parse(value) if isinstance(value, str) else value


def _rules(path: str, **rules: Any) -> Rules:
    return Rules(group=Group.PLACEMENT, job=(JobField(path),), decides_plan=False, **rules)


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
    tracking_uri: str | None = setting(
        "URI of an MLflow server.", _rules("tracking_uri", resumable=True, shown_default="SQLite in the output folder")
    )


class Placement(TrialPlacement):
    """`output` is the job's folder."""

    storage: str | None = setting("SQLAlchemy URL of the store.", _rules("storage", shown_default="SQLite in the output folder"))
    output: str = setting(
        "Folder of all files of the job, or its URI, such as s3://bucket/runs/flowers.",
        _rules("output", commands=Commands.NONE, resumable=True),
    )

    def in_job(self) -> dict[str, Any]:
        """The fields of `SearchJob` with the same names."""
        return {name: getattr(self, name) for name in type(self).model_fields}
