"""The state and the capabilities of the service itself."""

from __future__ import annotations

import enum

from pydantic import BaseModel


class DependencyState(enum.StrEnum):
    """Whether a service that this one needs answers; a store that can be read only, such as one on a full disk, is `not writable`."""

    OK = "ok"
    UNREACHABLE = "unreachable"
    NOT_WRITABLE = "not writable"
    NOT_CONFIGURED = "not configured"


class MethodInfo(BaseModel):
    """A slimming method and the paper that it is from."""

    name: str
    paper: str


class Capabilities(BaseModel):
    """What a spec may ask for. `model_args` are allowed values by argument; `paths` says whether `data` may be a path."""

    version: str
    models: list[str]
    model_args: dict[str, str]
    methods: list[MethodInfo]
    spaces: list[str]
    datasets: list[str]
    paths: bool
    pretrained: bool
    samplers: list[str]
    augmentations: list[str]
    limits: dict[str, float]


class Health(BaseModel):
    """`status` is always `ok`."""

    status: str


class Readiness(BaseModel):
    """States by dependency. `ready` needs the store only: it has to be writable."""

    ready: bool
    dependencies: dict[str, DependencyState]
