"""The operator's settings: where the data is, what a spec may name, and limits.

The layers are three updates of a dictionary. pydantic-settings would need a source of its own for the strict YAML and an opt-out from
reading lists as JSON for every field that is separated as in PATH or by commas: more code than it replaces.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from autoslim.config import variable_name
from autoslim.config.issues import SpecError, issues_of
from autoslim.config.strict_yaml import PlainLoader
from autoslim.config.value_types import Label
from autoslim.core.urls import default_url
from autoslim.errors import RequestError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9.]+/[0-9]{1,2}|[0-9A-Fa-f:.]+(/[0-9]{1,3})?")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _paths(value: Any) -> Any:
    """Splits an environment variable as PATH is split."""
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _names(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_paths)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class RequestLimits(BaseModel):
    """The maximum of one request, tenant or client."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(description="Bytes of a request's body.", default=2**20, ge=1024)
    budgets: int = Field(description="FLOPs budgets of a job.", default=16, ge=1)
    trials: int = Field(description="Trials of a job.", default=1000, ge=1)
    epochs: float = Field(description="Epochs of a trial, and of the dense model.", default=1000.0, gt=0)
    batch_size: int = Field(description="Images per training step.", default=4096, ge=1)
    image_size: int = Field(description="Side of a job's images, in pixels.", default=1024, ge=1)
    parameters: int = Field(description="Parameters of a job's dense model.", default=2 * 10**9, ge=1)
    # A ViT with patches of 8 at 1024 pixels and 24 blocks has 6.4e9; it takes less than a second to plan.
    attention: float = Field(description="Blocks of a job's dense model times its squared tokens.", default=1e10, gt=0)
    images: int = Field(description="Images of a data set: rows of Parquet files, files in a folder.", default=5_000_000, ge=1)
    # Some seven seconds on one core; the built-in spaces have 2,500 for 12 blocks (half a second) and 37,000 for 64.
    recipes: int = Field(
        description="Values of a search space's knobs times blocks of the model, which a plan has to try.", default=50_000, ge=1
    )
    plan_seconds: float = Field(description="Seconds for making one plan; a longer one is refused.", default=60.0, gt=0)
    planner_start_seconds: float = Field(
        description="Seconds for which a plan waits for the planner to start; the start goes on after that.", default=20.0, ge=0
    )
    plan_processes: int = Field(
        description="Plans made at a time; of two or more, one is always left to the other tenants.", default=2, ge=1
    )
    plans: int = Field(description="Plans of a tenant that are made or wait; more are answered with 429.", default=8, ge=1)
    submit_seconds: float = Field(
        description="Seconds for which a submit waits for its plan; after that the job is queued and planned later.",
        default=1.5,
        ge=0,
    )
    priority: int = Field(description="Highest priority of a job.", default=9, ge=0, le=9)
    work: float = Field(
        description="Multiply-accumulates that the unfinished jobs of a tenant compute at most: FLOPs x images x epochs x trials.",
        default=1e21,
        gt=0,
    )
    queued: int = Field(description="Unfinished jobs of a tenant.", default=5000, ge=1)
    streams: int = Field(description="Event streams of the service at a time.", default=500, ge=1)
    connections: int = Field(description="Open connections of the service.", default=2000, ge=1)
    connections_per_address: int = Field(
        description="Open connections of a client's address; behind a proxy all clients have the proxy's.", default=1000, ge=1
    )
    header_seconds: float = Field(description="Seconds within which the headers of a request must arrive.", default=10.0, gt=0)
    requests_per_second: float = Field(description="Requests a second of a client, on average.", default=100.0, gt=0)
    burst: int = Field(description="Requests that a client may send at once, after a pause.", default=300, ge=1)


class ServiceSettings(BaseModel):
    """By default `root` is in the user's data folder (XDG_DATA_HOME), and `storage` is SQLite in `root`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    storage: str = Field(description="SQLAlchemy URL of the store; without one, SQLite in `root`.", repr=False)
    root: Path = Field(description="Folder with a folder for each job; without one, in the user's data folder (XDG_DATA_HOME).")
    datasets: dict[Label, Path] = Field(
        description="Data sets that a job may name, as a mapping of names to paths.", default_factory=dict
    )
    data_roots: Paths = Field(
        description="Folders that the data set of a job must be under, if it is given as a path.", default=()
    )
    model_roots: Paths = Field(
        description="Folders that the model and the weights of a job must be under, if they are given as paths.", default=()
    )
    models: Names = Field(description="Patterns of the timm names that a job may ask for.", default=("*",))
    pretrained: bool = Field(description="Whether a job may ask for pretrained weights, which timm downloads.", default=True)
    tracking_uri: str | None = Field(description="URI of the MLflow server that jobs are logged to.", default=None, repr=False)
    mlflow_url: str | None = Field(description="Address of MLflow for links and for readiness, as users open it.", default=None)
    ray_dashboard_url: str | None = Field(
        description="Address of Ray's dashboard for links and for readiness, as users open it.", default=None
    )
    keys_required: bool = Field(
        description="Whether every request needs a key. Without it, a service that has never had a key is open to its machine.",
        default=False,
    )
    trust_network: bool = Field(
        description="Whether a service that has never had a key is open to everyone who reaches it, through proxies, too.",
        default=False,
    )
    allowed_hosts: Names = Field(
        description="Host names of the service. Requests to another name, or from a page of another host, are refused.",
        default=LOOPBACK,
    )
    webhook_allow: Names = Field(
        description="Hosts that a job's webhook may name. Private addresses only where an address or network here has them.",
        default=(),
    )
    limits: RequestLimits = Field(description="Limits on requests: see below.", default=RequestLimits())

    @field_validator("webhook_allow")
    @classmethod
    def _hosts(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if not _HOST.fullmatch(entry):
                raise ValueError(f"has {entry!r}; allowed: names of hosts, IP addresses, and networks such as 10.0.0.0/8")
        return entries

    @model_validator(mode="before")
    @classmethod
    def _here(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        root = values.get("root") or default_root()
        return {"storage": default_url(root), **values, "root": root}

    def folder(self, job_id: str) -> Path:
        """The folder of a job. `job_id` must be from the queue: it is joined to `root` as it is."""
        return self.root / "jobs" / job_id


def default_root() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "autoslim"


def read_settings(
    file: Path | None = None, *, environ: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None
) -> ServiceSettings:
    """Flags override `AUTOSLIM_*` variables, which override the YAML file, which overrides the defaults.

    Raises:
        RequestError: naming every setting that is wrong, without its value, which may be a secret.
    """
    values: dict[str, Any] = {} if file is None else _read_file(file)
    values |= {name: environ[variable_name(name)] for name in ServiceSettings.model_fields if variable_name(name) in environ}
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return ServiceSettings.model_validate(values)
    except pydantic.ValidationError as error:
        raise SpecError(issues_of(error, ServiceSettings.model_fields)) from None


def _read_file(file: Path) -> dict[str, Any]:
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader=PlainLoader)  # noqa: S506 - a SafeLoader  # nosec B506
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"settings {file} cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise RequestError(f"settings {file} must be a mapping; allowed: {', '.join(ServiceSettings.model_fields)}")
    return data
