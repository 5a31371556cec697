"""The content of a run in MLflow, made from the store alone, without MLflow's client.

Names that a version of autoslim no longer uses stay in the runs that have them: MLflow does not rename metrics and parameters. A tag
that is gone has the value `none`. Runs are found again by `autoslim.uid` and `autoslim.entity`, which are the same in all versions.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from autoslim.core.budget import format_flops
from autoslim.core.result import ParetoFront, TrialState, measurement_fields
from autoslim.core.score import ACCURACY, SCORES, Score
from autoslim.core.selection import best_within_budgets
from autoslim.core.urls import hide_password
from autoslim.report.dense_models import model_names
from autoslim.report.tracking.description import front_note
from autoslim.store import JobState, StoredEpoch, StoredJob, StoredTrial

MOST_CURVES = 12
"""Metrics per epoch; with those of the result a run has fewer than 25, the most that MLflow's pages show well."""

SYSTEM_METRICS = "system/"
"""The prefix by which MLflow's pages know system metrics."""

_JOB_STATUS = {JobState.COMPLETE: "FINISHED", JobState.STOPPED: "KILLED", JobState.FAILED: "FAILED"}
_TRIAL_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.STOPPED: "KILLED"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    name: str
    value: float
    timestamp: int
    step: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunContent:
    """Dates are milliseconds since 1970. `points` always carry the date they were stored, so that MLflow knows a repetition."""

    name: str
    status: str
    started: int
    ended: int | None
    params: dict[str, str]
    tags: dict[str, str]
    points: tuple[Point, ...]


def job_content(job: StoredJob, trials: Sequence[StoredTrial]) -> RunContent:
    ended = [milliseconds(trial.ended_at) for trial in trials if trial.ended_at]
    spec = job.job
    tags = {"autoslim.uid": job.uid, "autoslim.entity": "job", "job": spec.id, "state": job.state.value}
    tags |= {"mlflow.note.content": front_note(job, trials), "mlflow.source.name": "autoslim"}
    tags |= {"mlflow.loggedArtifacts": '[{"path": "front.json", "type": "table"}]'}
    return RunContent(
        name=spec.id,
        status=_JOB_STATUS.get(job.state, "RUNNING"),
        started=milliseconds(job.created_at),
        ended=milliseconds(job.updated_at) if job.state.ended else None,
        params=_job_params(job),
        tags=tags | ({"error": job.error[:5000]} if job.error else {}),
        points=_points(_job_metrics(job, trials), timestamp=max(ended, default=milliseconds(job.created_at)), step=len(ended)),
    )


def trial_content(job: StoredJob, trial: StoredTrial, *, parent: str, pareto: bool) -> RunContent:
    """`parent` is the id of the search's own run."""
    result = trial.result
    name = f"t{result.number:02d} {result.recipe.title} {trial.target}"
    running = result.state is TrialState.RUNNING
    status = _TRIAL_STATUS.get(result.state, "FAILED")
    if running:
        # A driver that was lost leaves trials running; in MLflow they end with the job, and run again in its next attempt.
        status = "KILLED" if job.state.ended else "RUNNING"
    ended = milliseconds(trial.ended_at or job.updated_at)
    return RunContent(
        name=name,
        status=status,
        started=milliseconds(trial.started_at),
        ended=None if status == "RUNNING" else ended,
        params=_trial_params(trial),
        tags={"mlflow.parentRunId": parent} | _trial_tags(job, trial, pareto),
        points=() if running else _points(_trial_metrics(job, trial), timestamp=ended, step=0),
    )


def epoch_points(epochs: Sequence[StoredEpoch], names: list[str], score: Score = ACCURACY) -> list[Point]:
    """`names` are the curves this trial has so far; new ones are added to it up to MOST_CURVES. `score` is what the search compares."""
    points: list[Point] = []
    for epoch in epochs:
        metrics = {_curve(_worded(name, score)): value for name, value in epoch.report.metrics.items()}
        names.extend([name for name in metrics if name not in names][: MOST_CURVES - len(names)])
        shown = {name: value for name, value in metrics.items() if name in names} | {"epoch": epoch.report.epoch}
        # MLflow shows these on a page of their own.
        shown |= {legal(f"{SYSTEM_METRICS}{name}"): value for name, value in epoch.report.system.items()}
        points += _points(shown, timestamp=milliseconds(epoch.reported_at), step=epoch.position)
    return points


def milliseconds(date: str) -> int:
    return round(datetime.datetime.fromisoformat(date).timestamp() * 1000)


def legal(name: str) -> str:
    """A name as MLflow allows it."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("%", "pct"), flags=re.ASCII)[:250] or "_"


def _worded(name: str, score: Score) -> str:
    """The name of a measurement or a curve in the words of what the search compares."""
    return score.name + name.removeprefix(ACCURACY.name) if name.startswith(ACCURACY.name) else name


def _curve(name: str) -> str:
    clash = name in _RESULT_METRICS or name == "epoch"
    return legal(f"curve.{name}" if clash else name)


def _points(metrics: Mapping[str, float | None], *, timestamp: int, step: int) -> tuple[Point, ...]:
    # A chart cannot show a value that is not finite, and not every MLflow backend accepts it; the store has it.
    known = {name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}
    return tuple(Point(name=name, value=value, timestamp=timestamp, step=step) for name, value in known.items())


def _job_metrics(job: StoredJob, trials: Sequence[StoredTrial]) -> dict[str, float | None]:
    base, spec, score = job.base, job.job, job.job.dataset.score.name
    front = ParetoFront.of(trial.result for trial in trials)
    metrics: dict[str, float | None] = {"trials_ended": sum(trial.ended_at is not None for trial in trials)}
    if base is None:
        return metrics
    metrics |= {
        f"dense_val_{score}": base.dense_accuracy,
        "dense_gflops": base.dense_flops / 1e9,
        "dense_mparams": base.params / 1e6,
    }
    metrics["dense_latency_ms"] = base.latency_ms
    for label, facts in base.starts.items():
        metrics |= {
            legal(f"dense_val_{score}/{label}"): facts.dense_accuracy,
            legal(f"dense_gflops/{label}"): facts.dense_flops / 1e9,
        }
    if job.shared:
        metrics["shared_epochs"] = sum(cost.epochs for cost in job.shared)
        metrics["shared_seconds"] = sum(cost.seconds for cost in job.shared)
    metrics["hypervolume"] = front.hypervolume(dense_flops=base.front_flops, chance=base.chance) if front.results else 0.0
    budgets, floor = spec.budget_flops(base.dense_flops), spec.floor(base.dense_accuracy)
    best = best_within_budgets([trial.result for trial in trials], budgets, spec.limits, floor)
    metrics |= {legal(f"best_val_{score}/{label}"): result.accuracy for label, result in best.items()}
    return metrics


def _trial_metrics(job: StoredJob, trial: StoredTrial) -> dict[str, float | None]:
    result = trial.result
    share = None if job.base is None or result.flops is None else result.flops / job.base.dense_flops
    score = job.job.dataset.score
    numbers = {name: value for name, value in result.measurements().items() if not isinstance(value, str)}
    measured = {_metric(name, score): _scaled(name, value) for name, value in numbers.items()}
    return measured | {"flops_share": share}


def _metric(name: str, score: Score = ACCURACY) -> str:
    """The metric of a measurement: accuracies are those on the validation images. The curve over a trial's epochs is `accuracy`. Where a
    search compares another score, its name takes the place of `accuracy`."""
    if name.startswith(ACCURACY.name):
        return f"val_{_worded(name, score)}"
    return f"m{name}" if name == "params" else f"g{name}" if name.startswith("flops") else name


def _scaled(name: str, value: float | None) -> float | None:
    """In billions of multiply-accumulates and millions of parameters: MLflow's charts have no prefixes."""
    unit = 1e6 if name == "params" else 1e9 if name.startswith("flops") else 1.0
    return None if value is None else value / unit


_RESULT_METRICS = {*(_metric(name, score) for name in measurement_fields() for score in SCORES.values()), "flops_share"}


def _trial_tags(job: StoredJob, trial: StoredTrial, pareto: bool) -> dict[str, str]:
    result = trial.result
    selected_for = ", ".join(label for label, number in job.chosen.items() if number == result.number)
    tags: dict[str, Any] = {
        "autoslim.uid": job.uid,
        "autoslim.entity": str(result.number),
        "job": job.job.id,
        "trial": result.number,
        "method": result.recipe.method,
        "model": result.recipe.model or None,
        "target": trial.target,
        "origin": result.origin,
        "state": result.state.value,
        "pareto": str(pareto).lower(),
        "selected_for": selected_for or None,
        "duplicate_of": result.duplicate_of,
        "stop_reason": result.stopped,
        "artifact": result.artifact,
        "precision": result.precision,
        "error_class": result.error_class,
        "error": None if result.error is None else hide_password(result.error)[:5000],
        "mlflow.source.name": "autoslim",
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def _trial_params(trial: StoredTrial) -> dict[str, str]:
    recipe = trial.result.recipe
    params: dict[str, Any] = {
        "method": recipe.method,
        "budget": format_flops(recipe.budget),
        "seed": recipe.seed,
        "recipe_key": recipe.key,
    }
    if recipe.model:
        params["model"] = recipe.model
    return _texts(params | recipe.flat_knobs | _flat("training", recipe.training.to_dict()))


def _job_params(job: StoredJob) -> dict[str, str]:
    spec = job.job
    weights = ", ".join(dict.fromkeys(model.weights for model in spec.models))
    params: dict[str, Any] = {"model": model_names(spec), "weights": weights, "image_size": spec.model.image_size}
    if spec.teacher is not None:
        params["teacher"] = spec.teacher.name
    if not spec.dataset.labelled:
        params |= {"objective": "features", **({} if spec.probe is None else {"probe": hide_password(spec.probe)})}
    params |= {"dataset": hide_password(spec.dataset.source), "budgets": ", ".join(spec.labels)}
    params |= {"space": spec.space, "trials": spec.trials, "sampler": spec.sampler, "prior": spec.prior}
    params |= {"scheduler": spec.scheduler, "seed": spec.seed, "output": spec.output}
    params |= (
        _flat("training", spec.training.to_dict())
        | _flat("base", spec.base.to_dict())
        | _flat("resources", spec.resources.to_dict() if spec.resources else {})
    )
    if spec.limits.given:
        params["limits"] = spec.limits.flags
        params["latency_mode"] = spec.limits.mode
    return _texts(params)


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in values.items()}


def _texts(params: Mapping[str, Any]) -> dict[str, str]:
    return {legal(name): hide_password(str(value))[:6000] for name, value in params.items()}
