"""What the operator decides for drivers: where jobs are kept, run and logged. It reaches a driver by its environment."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from autoslim.config import Placement
from autoslim.core.job import Resources
from autoslim.core.urls import hide_password
from autoslim.errors import RequestError

_PREFIX = "AUTOSLIM_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriverSettings:
    """`root` has a folder for each job, on a file system that all nodes share. `storage` is the only secret there may be.

    A driver prolongs its lease at every quarter of `lease_seconds`; when it is lost, another driver takes its job over.
    """

    storage: str = dataclasses.field(repr=False)
    root: Path
    tracking_uri: str | None = None
    address: str | None = None
    resources: Resources | None = None
    concurrency: int | None = None
    lease_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.tracking_uri is not None and hide_password(self.tracking_uri) != self.tracking_uri:
            raise RequestError(
                f"the tracking URI {hide_password(self.tracking_uri)} has a password in it, which would be written into every job; "
                "give it as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
            )
        if not 1.0 <= self.lease_seconds <= 3600.0:
            raise RequestError(f"the lease is {self.lease_seconds} s; allowed: 1 to 3600")

    def folder(self, job_id: str) -> Path:
        return self.root / "jobs" / job_id

    def log(self, job_id: str, attempt: int) -> Path:
        return self.folder(job_id) / "logs" / f"attempt-{attempt}.log"

    def placement(self, job_id: str) -> Placement:
        """Without the storage, which may hold a password: a job's record must not."""
        return Placement(
            output=str(self.folder(job_id)),
            resources=self.resources,
            concurrency=self.concurrency,
            address=self.address,
            tracking_uri=self.tracking_uri,
        )

    def environment(self, *, secrets: bool) -> dict[str, str]:
        """Variables that `read_driver_settings` understands; without `secrets`, those that anybody may see."""
        values = {
            "storage": self.storage if secrets or hide_password(self.storage) == self.storage else None,
            "root": str(self.root),
            "tracking_uri": self.tracking_uri,
            "address": self.address,
            "resources": None if self.resources is None else f"cpu={self.resources.cpu:g},gpu={self.resources.gpu:g}",
            "concurrency": None if self.concurrency is None else str(self.concurrency),
            "lease_seconds": f"{self.lease_seconds:g}",
        }
        return {_PREFIX + name.upper(): value for name, value in values.items() if value is not None}


def read_driver_settings(environ: Mapping[str, str] = os.environ) -> DriverSettings:
    """From AUTOSLIM_STORAGE, AUTOSLIM_ROOT and the others of the fields' names.

    Raises:
        RequestError: naming the variable and what is allowed.
    """
    given = {field.name: environ.get(_PREFIX + field.name.upper()) or None for field in dataclasses.fields(DriverSettings)}
    for name in ("storage", "root"):
        if given[name] is None:
            raise RequestError(f"{_PREFIX}{name.upper()} is not set; a driver needs it")
    assert given["storage"] is not None and given["root"] is not None
    resources = given["resources"]
    return DriverSettings(
        storage=given["storage"],
        root=Path(given["root"]),
        tracking_uri=given["tracking_uri"],
        address=given["address"],
        resources=None if resources is None else Resources.parse(resources, f"{_PREFIX}RESOURCES"),
        concurrency=None if given["concurrency"] is None else int(_number("concurrency", given["concurrency"])),
        lease_seconds=60.0 if given["lease_seconds"] is None else _number("lease_seconds", given["lease_seconds"]),
    )


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{_PREFIX}{name.upper()} is {text!r}; allowed: a number") from None
