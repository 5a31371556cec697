"""The `JobField`s of settings that a job holds in another form than the spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoslim.config.job_field import JobField, default_at
from autoslim.config.value_types import image_sides
from autoslim.core.accuracy_goal import AccuracyGoal, percent_text
from autoslim.core.budget import Budget
from autoslim.core.byte_size import byte_size_text, parse_byte_size
from autoslim.core.constraints import CostLimits, budget_of_limits, parse_latency, parse_params
from autoslim.core.duration import exact_duration, parse_duration
from autoslim.core.job import SearchJob
from autoslim.core.recipe import PRECISIONS


def _absolute_folders(sources: tuple[str, ...], _: Any) -> tuple[str, ...]:
    return tuple(str(Path(source).absolute()) if "/" in source else source for source in sources)


def objective_of(labelled: bool) -> str:
    """As the user writes it."""
    return "labels" if labelled else "features"


def _milliseconds(latency: str | None, _: Any) -> float | None:
    return None if latency is None else parse_latency(latency)[0]


def _batch(latency: str | None, _: Any) -> int:
    return CostLimits().batch if latency is None else parse_latency(latency)[1]


def _mode(mode: str, job: SearchJob) -> str | None:
    return None if job.limits.latency_ms is None else mode


def _labels(budgets: tuple[Budget, ...], job: SearchJob) -> tuple[str, ...]:
    return () if budgets == (budget_of_limits(job.limits),) else tuple(budget.label for budget in budgets)


def _goal_least(goal: AccuracyGoal | None, _: SearchJob) -> str | None:
    return None if goal is None or goal.least is None else percent_text(goal.least)


MODEL_ARGS = JobField("model.args", write=lambda arguments, _: dict(arguments))
IMAGE_SIZE = JobField(
    "model.image_size",
    write=lambda size, _: None if size is None else image_sides(size),
    read=lambda size, _: None if size is None else f"{size[0]}x{size[1]}",
)
OBJECTIVE = JobField(
    "dataset.labelled",
    write=lambda objective, _: objective == "labels",
    read=lambda labelled, _: objective_of(labelled),
)
"""Features are what is learnt without labels: whether images have labels says both."""
UNREADABLE_SHARE = JobField(
    "dataset.unreadable_share",
    write=lambda allowed, _: allowed if isinstance(allowed, float) else default_at("dataset.unreadable_share"),
    read=lambda _, job: job.dataset.unreadable,
)
UNREADABLE_IMAGES = JobField("dataset.unreadable_images", write=lambda allowed, _: allowed if isinstance(allowed, int) else None)
DECODED_LIMIT = JobField(
    "dataset.decoded_limit",
    write=lambda limit, _: None if limit is None else parse_byte_size(limit),
    read=lambda limit, _: None if limit is None else byte_size_text(limit),
)
PARAMS = JobField(
    "limits.params",
    write=lambda params, _: None if params is None else parse_params(params),
    read=lambda params, _: None if params is None else str(params),
)
LATENCY_MS = JobField("limits.latency_ms", write=_milliseconds, read=lambda _, job: job.limits.latency)
LATENCY_BATCH = JobField("limits.batch", write=_batch)
LATENCY_MODE = JobField("limits.mode", write=lambda mode, _: mode or CostLimits().mode, read=_mode)
MAX_DROP = JobField("goal", write=lambda _, spec: spec.goal, read=lambda goal, _: None if goal is None else goal.max_drop)
MIN_ACCURACY = JobField("goal", write=lambda _, spec: spec.goal, read=_goal_least)
BUDGETS = JobField("budgets", write=lambda _, spec: spec.budgets, read=_labels)
SPACE = JobField(
    "space",
    write=lambda space, _: space if isinstance(space, str) else json.dumps(space, sort_keys=True),
    read=lambda text, _: json.loads(text) if text.lstrip().startswith("{") else text,
)
TRIALS = JobField("trials", write=lambda _, spec: spec.most_trials)
MAX_SECONDS = JobField(
    "max_seconds",
    write=lambda time, _: None if time is None else parse_duration(time),
    read=lambda seconds, _: None if seconds is None else exact_duration(seconds),
)
REUSE = JobField("reuse", write=_absolute_folders)
FLIP = JobField("training.flip", write=lambda _, spec: spec.mirrors)
BASE_FLIP = JobField("base.flip", write=lambda _, spec: spec.mirrors)
_PRECISION_NAMES = {value: name for name, value in PRECISIONS.items()}
PRECISION = JobField(
    "training.precision",
    write=lambda name, _: PRECISIONS[name],
    read=lambda precision, _: _PRECISION_NAMES[precision],
)
BASE_PRECISION = JobField("base.precision", write=lambda name, _: PRECISIONS[name])
BASE_LR = JobField("base.lr", write=lambda lr, spec: lr or spec.lr)
