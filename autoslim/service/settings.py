"""The operator's settings: where the data is, what a spec may name, and limits.

The layers are three updates of a dictionary. pydantic-settings would need a source of its own for the strict YAML and an opt-out from
reading lists as JSON for every field that is separated as in PATH or by commas: more code than it replaces.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from autoslim.config import variable_name
from autoslim.config.issues import SpecError, issues_of
from autoslim.config.strict_yaml import PlainLoader
from autoslim.config.value_types import Label
from autoslim.errors import RequestError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _paths(value: Any) -> Any:
    """Splits an environment variable as PATH is split."""
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _names(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_paths)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class RequestLimits(BaseModel):
    """The maximum of one request or tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(default=2**20, ge=1024, description="bytes of a request's body")
    budgets: int = Field(default=16, ge=1, description="budgets of a job")
    trials: int = Field(default=1000, ge=1, description="trials of a job")
    epochs: float = Field(default=1000.0, gt=0, description="epochs of a trial")
    batch_size: int = Field(default=4096, ge=1, description="images of a training step")
    image_size: int = Field(default=1024, ge=1, description="pixels of an image's side")
    parameters: int = Field(default=2 * 10**9, ge=1, description="parameters of the dense model")
    # A ViT with patches of 8 at 1024 pixels and 24 blocks has 6.4e9; it takes less than a second to plan.
    attention: float = Field(default=1e10, gt=0, description="blocks times squared tokens of the dense model")
    images: int = Field(default=5_000_000, ge=1, description="images of a data set: rows of Parquet files, files in a folder")
    # Some seven seconds on one core; the built-in spaces have 2,100 for 12 blocks (half a second) and 35,000 for 64.
    recipes: int = Field(
        default=50_000,
        ge=1,
        description="values of a search space's knobs, times the blocks of the model; they are tried for a plan",
    )
    plan_seconds: float = Field(default=60.0, gt=0, description="seconds of making one plan, from its begin")
    planner_start_seconds: float = Field(
        default=20.0, ge=0, description="seconds for which a plan waits for the planner to start; the start goes on after that"
    )
    plan_processes: int = Field(
        default=2, ge=1, description="plans made at a time; of two or more, one is always left to the other tenants"
    )
    plans: int = Field(default=8, ge=1, description="plans of a tenant that are made or wait; more are answered with 429")
    submit_seconds: float = Field(
        default=1.5,
        ge=0,
        description="seconds for which a submit waits for its plan; after that the job is queued and planned later",
    )
    priority: int = Field(default=9, ge=0, le=9, description="highest priority of a job")
    work: float = Field(
        default=1e21,
        gt=0,
        description="multiply-accumulates that the unfinished jobs of a tenant compute at most: FLOPs x images x epochs x trials",
    )
    queued: int = Field(default=5000, ge=1, description="unfinished jobs of a tenant")
    streams: int = Field(default=500, ge=1, description="event streams at a time")
    connections: int = Field(default=2000, ge=1, description="open connections")
    connections_per_address: int = Field(
        default=1000, ge=1, description="of a client address; behind a proxy all clients have the proxy's"
    )
    header_seconds: float = Field(default=10.0, gt=0, description="time for a request's headers")
    requests_per_second: float = Field(default=100.0, gt=0, description="requests of a key in the long run")
    burst: int = Field(default=300, ge=1, description="requests of a key at once")


class ServiceSettings(BaseModel):
    """`root` has a folder per job; `datasets` are paths by name. Paths in a spec must be under `data_roots` or `model_roots`.

    `models` are patterns of timm names. `mlflow_url` and `ray_dashboard_url` are the addresses that users open; readiness probes them, too.
    With `keys_required` every request needs a key; without it, a service that has never had a key is open to this machine. `trust_network`
    opens it to whoever reaches it, through proxies, too.

    By default `root` is in the user's data folder (XDG_DATA_HOME), and `storage` is SQLite in `root`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    storage: str = Field(repr=False)
    root: Path
    datasets: dict[Label, Path] = Field(default_factory=dict)
    data_roots: Paths = ()
    model_roots: Paths = ()
    models: Names = ("*",)
    pretrained: bool = True
    tracking_uri: str | None = Field(default=None, repr=False)
    mlflow_url: str | None = None
    ray_dashboard_url: str | None = None
    keys_required: bool = False
    trust_network: bool = False
    allowed_hosts: Names = LOOPBACK
    limits: RequestLimits = RequestLimits()

    @model_validator(mode="before")
    @classmethod
    def _here(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        root = values.get("root") or default_root()
        return {"storage": f"sqlite:///{Path(root).absolute() / 'autoslim.db'}", **values, "root": root}

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
