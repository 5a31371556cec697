"""A search that is gone on with keeps what it was begun with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoslim.cli.parsing import CliInput, fields_of, placement_of, spec_of
from autoslim.config import JobSpec, read_mapping
from autoslim.config.duration import format_duration, parse_duration
from autoslim.core.constraints import budget_of_limits
from autoslim.core.job import SearchJob
from autoslim.errors import RequestError

LIMITS = ("time", "max_epochs", "plateau", "final_share", "final_seeds", "price_per_hour")
CHANGEABLE = frozenset({"trials", "speed", "name", "priority", "schema_version", *LIMITS})
"""Fields that make no other search of it."""


def resumed_job(job: SearchJob, cli_input: CliInput, file: Path | None, output: Path) -> SearchJob:
    """The job as it was begun, with more trials or on another cluster where that was asked for.

    The environment's AUTOSLIM_* may have changed since for other reasons; only flags and the job file are held against the job.

    Raises:
        RequestError: when a flag, or a field of the file, would make another job of it.
    """
    begun, flags = as_spec(job), CliInput(flags=cli_input.flags, environment={})
    if file is None:
        changes = fields_of(flags)
        asked = read_mapping({**begun.model_dump(mode="json"), **changes}) if changes else begun
        said = set(changes)
    else:
        asked = spec_of(flags, file)
        said = asked.model_fields_set
    for field in sorted(said - CHANGEABLE):
        now, was = _comparable(field, asked), _comparable(field, begun)
        if now != was:
            raise RequestError(
                f"{flags.name(field)} is {now!r}, but this search was begun with {was!r}; a resumed search keeps it"
            )
    placement = placement_of(flags, output)
    if placement.storage is not None and placement.storage != job.storage:
        raise RequestError(
            f"--storage is {placement.storage!r}, but this search was begun with {job.storage!r}; a resumed search keeps it"
        )
    changed: dict[str, Any] = {
        name: getattr(placement, name)
        for name in ("resources", "concurrency", "address", "tracking_uri")
        if name in cli_input.flags
    }
    if "trials" in said and asked.trials is not None:
        changed["trials"] = asked.trials
    changed |= {name: getattr(asked, name) for name in LIMITS if name in said and name != "time"}
    if "time" in said:
        changed["max_seconds"] = None if asked.time is None else parse_duration(asked.time)
    if "speed" in said:
        changed["speed"] = tuple(asked.speed)
    return job.replace(**changed, output=placement.output)


def as_spec(job: SearchJob) -> JobSpec:
    """The request that `job` carries out."""
    training, base = job.training, job.base
    return read_mapping(
        {
            "model": job.model.name,
            "weights": job.model.weights,
            "model_args": job.model.args,
            "image_size": None if job.model.image_size is None else job.model.image_size[0],
            "data": job.dataset.source,
            "train_limit": job.dataset.train_limit,
            "flops": () if job.budgets == (budget_of_limits(job.limits),) else tuple(budget.label for budget in job.budgets),
            "latency": job.limits.latency,
            "latency_mode": None if job.limits.latency is None else job.limits.mode,
            "params": None if job.limits.params is None else str(job.limits.params),
            "space": json.loads(job.space) if job.space.lstrip().startswith("{") else job.space,
            "trials": job.trials,
            "time": None if job.max_seconds is None else format_duration(job.max_seconds),
            "max_epochs": job.max_epochs,
            "plateau": job.plateau,
            "final_share": job.final_share,
            "final_seeds": job.final_seeds,
            "price_per_hour": job.price_per_hour,
            "reuse": job.reuse,
            "epochs": training.epochs,
            "batch_size": training.batch_size,
            "lr": training.lr,
            "augmentation": training.augmentation,
            "flip": training.flip,
            "base_epochs": base.epochs,
            "base_lr": base.lr,
            "sampler": job.sampler,
            "scheduler": job.scheduler,
            "seed": job.seed,
            "class_query": job.class_query,
            "bound": job.bound,
            "speed": job.speed,
        }
    )


def _comparable(field: str, spec: JobSpec) -> Any:
    value = getattr(spec, field)
    if field == "reuse":
        return tuple(str(Path(source).absolute()) if "/" in source else source for source in value)
    if field == "weights" and value not in ("pretrained", "scratch"):
        return str(Path(value).absolute())
    return value
