"""Trials as Parquet, for pandas, Polars and DuckDB.

The files are made from the store and never read back. One row a trial; the columns before `knob.*` are always there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from autoslim.core.files import replacing_file
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Origin, ParetoFront, Target, measurement_fields
from autoslim.core.urls import hide_password
from autoslim.errors import OutputError
from autoslim.store.rows import StoredJob, StoredTrial

_ARROW = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}

_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "number": (pa.int64(), "trial number within the job"),
    "method": (pa.string(), "method of each step, joined with +"),
    "model": (pa.string(), "the dense model that the recipe starts from, where the search has several"),
    "origin": (pa.string(), f"who proposed the recipe: {', '.join(Origin)}"),
    "target": (pa.string(), f"label of the budget the recipe was solved onto, or {Target.FREE}"),
    "state": (pa.string(), "running, complete, stopped, failed or infeasible"),
    "pareto": (pa.bool_(), "no other complete trial is as accurate and as cheap"),
    "chosen": (pa.string(), "labels of the budgets whose model this trial is, joined with commas"),
    **{name: (_ARROW[kind], text) for name, (kind, text) in measurement_fields().items()},
    "flops_share": (pa.float64(), "flops as a share of the dense model's"),
    "budget": (pa.int64(), "multiply-accumulates the recipe was solved onto"),
    "pareto_latency": (pa.bool_(), "no other complete trial is as accurate and as fast"),
    "error_class": (pa.string(), "class of the error that ended the trial"),
    "error": (pa.string(), "its message"),
    "artifact": (pa.string(), "the model's folder, relative to the job's output folder"),
    "duplicate_of": (pa.int64(), "number of the earlier trial whose result this one repeats"),
    "reused_from": (pa.string(), "the trial of an earlier search whose result this is"),
    "stopped": (pa.string(), "why the scheduler ended it early; its accuracy is then that after `epochs`"),
    "seed": (pa.int64(), "seed of the trial"),
    "recipe_key": (pa.string(), "names the trial's folder and checkpoint"),
    "started_at": (pa.string(), "ISO 8601, UTC"),
    "ended_at": (pa.string(), "ISO 8601, UTC"),
}
_RESULT_FIELDS = ("number", "origin", "error_class", "error", "artifact", "duplicate_of", "reused_from", "stopped")


def write_trials_parquet(path: str | os.PathLike[str], job: StoredJob, trials: Sequence[StoredTrial]) -> None:
    """All trials in the order given, `Store.stored_trials`' as a rule.

    Raises:
        OutputError: when the file cannot be written; one that was there before is then untouched.
    """
    _write(Path(path), trials_table(job, trials))


def write_front_parquet(path: str | os.PathLike[str], job: StoredJob, trials: Sequence[StoredTrial]) -> None:
    """The rows of `trials` that are on the Pareto front, cheapest first; the same columns as `write_trials_parquet`."""
    table = trials_table(job, trials)
    _write(Path(path), table.filter(table["pareto"]).sort_by("flops"))


def trials_table(job: StoredJob, trials: Sequence[StoredTrial]) -> pa.Table:
    front = {result.number for result in ParetoFront.of(trial.result for trial in trials).results}
    fast = {result.number for result in ParetoFront.of((trial.result for trial in trials), cost="latency_ms").results}
    rows = [_row(job, trial, trial.result.number in front, trial.result.number in fast) for trial in trials]
    knobs = [trial.result.recipe.flat_knobs for trial in trials]
    fields = [pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in _COLUMNS.items()]
    fields += [pa.field(f"training.{name}", _ARROW[kind]) for name, kind in get_type_hints(TrainingSettings).items()]
    arrays = [pa.array([row[field.name] for row in rows], field.type) for field in fields]
    for name in sorted({name for row in knobs for name in row}):
        arrays.append(_knob_array([row.get(name) for row in knobs]))
        fields.append(pa.field(f"knob.{name}", arrays[-1].type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata={"autoslim": _about(job)}))


def _row(job: StoredJob, trial: StoredTrial, pareto: bool, pareto_latency: bool) -> dict[str, Any]:
    result, recipe = trial.result, trial.result.recipe
    labels = [label for label, number in job.chosen.items() if number == result.number]
    row = result.measurements() | {name: getattr(result, name) for name in _RESULT_FIELDS}
    row |= {f"training.{field.name}": getattr(recipe.training, field.name) for field in dataclasses.fields(TrainingSettings)}
    row |= {"model": recipe.model or None}
    row |= {"method": recipe.method, "target": trial.target, "state": result.state.value, "pareto": pareto}
    row |= {"pareto_latency": pareto_latency if result.latency_ms is not None else None}
    row |= {"chosen": ", ".join(labels) or None, "budget": recipe.budget, "seed": recipe.seed, "recipe_key": recipe.key}
    row |= {"started_at": trial.started_at, "ended_at": trial.ended_at, "flops_share": None}
    if job.base is not None and result.flops is not None:
        row["flops_share"] = result.flops / job.base.dense_flops
    return row


def _knob_array(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) == 1 and (kind := kinds.pop()) in _ARROW:
        return pa.array(values, _ARROW[kind])
    if kinds and kinds <= {int, float}:
        return pa.array(values, pa.float64())
    # Lists, objects and mixtures: as JSON, which keeps their types.
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _about(job: StoredJob) -> str:
    about = {
        "job": job.job.id,
        "model": ", ".join(model.name for model in job.job.models),
        "dataset": hide_password(job.job.dataset.source),
        "budgets": [budget.label for budget in job.job.budgets],
        "limits": job.job.limits.to_dict(),
        "base": None if job.base is None else job.base.to_dict(),
        "score": job.job.dataset.score.name,
        "units": "flops are multiply-accumulates per image; accuracies are shares, not percent, or the score of this name",
    }
    return json.dumps(about, sort_keys=True)


def _write(path: Path, table: pa.Table) -> None:
    try:
        with replacing_file(path) as partial:
            pq.write_table(table, partial)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
