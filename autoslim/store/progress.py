"""The progress of searches, from the columns where possible: pages of jobs are requested often, and results in JSON are large."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from autoslim.core.accuracy_goal import Floor
from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.core.result import BaseFacts, Origin, TrialResult, TrialState, hypervolume, non_dominated
from autoslim.core.selection import best_within_budgets
from autoslim.store import schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchProgress(Record):
    """`best` is the best trial within each budget so far, and `budgets` are multiply-accumulates, both by the budget's label; `best` has
    that of the goal, too. `states` are numbers of trials.

    `hypervolume` is that of the front so far, a share; None before the dense model is known. `mlflow_run` is the parent run, if any.
    """

    states: dict[str, int]
    budgets: dict[str, int]
    best: dict[str, TrialResult]
    hypervolume: float | None
    mlflow_run: str | None

    @property
    def ended(self) -> int:
        return sum(count for state, count in self.states.items() if state != TrialState.RUNNING)


def read_progress(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, SearchProgress]:
    """By id, of those of the jobs whose search has started."""
    columns = (schema.jobs.c.id, schema.jobs.c.base, schema.jobs.c.spec)
    jobs = connection.execute(sa.select(*columns).where(schema.jobs.c.id.in_(job_ids))).all()
    states, runs = _states(connection, job_ids), _runs(connection, job_ids)
    found = {}
    for row in jobs:
        job, base = SearchJob.from_json(row.spec), None if row.base is None else BaseFacts.from_json(row.base)
        # Before the dense model is known there is no share of its FLOPs, and no trial has ended.
        budgets = {} if base is None else job.budget_flops(base.dense_flops)
        found[row.id] = SearchProgress(
            states=states.get(row.id, {}),
            budgets=budgets,
            best=_best(connection, job, budgets, None if base is None else job.floor(base.dense_accuracy)),
            hypervolume=_hypervolume(connection, row.id, base),
            mlflow_run=runs.get(row.id),
        )
    return found


def _states(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, dict[str, int]]:
    table = schema.trials.c
    query = sa.select(table.job_id, table.state, sa.func.count()).where(table.job_id.in_(job_ids))
    found: dict[str, dict[str, int]] = {}
    for job_id, state, count in connection.execute(query.group_by(table.job_id, table.state)):
        found.setdefault(job_id, {})[state] = count
    return found


def _best(connection: sa.Connection, job: SearchJob, budgets: Mapping[str, int], floor: Floor | None) -> dict[str, TrialResult]:
    table = schema.trials.c
    numbers = _candidates(connection, job) if budgets or floor is not None else []
    query = sa.select(table.result).where(table.job_id == job.id, table.number.in_(numbers)).order_by(table.number)
    results = [TrialResult.from_json(text) for text in connection.execute(query).scalars()]
    return best_within_budgets(results, budgets, job.limits, floor)


def _candidates(connection: sa.Connection, job: SearchJob) -> list[int]:
    """The numbers of the few complete trials that can be the best within any budget, by what the columns say of them.

    Those are the front of the search's own trials within the limit on parameters, and all trials of the refinement, because which of
    them count depends on their recipes. A latency is in the results alone: where it is limited, every trial is a candidate.
    """
    found = _complete_trials(connection, job.id)
    if job.limits.params is not None:
        found = [row for row in found if row.params is not None and row.params <= job.limits.params]
    if job.limits.latency_ms is not None:
        return [row.number for row in found]
    searched = [row for row in found if row.origin != Origin.REFINEMENT]
    refined = [row.number for row in found if row.origin == Origin.REFINEMENT]
    return [row.number for row in non_dominated(searched, _point)] + refined


def _runs(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, str]:
    table = schema.tracking.c
    query = sa.select(table.job_id, table.run_id).where(table.job_id.in_(job_ids), table.entity == "job")
    return {job_id: run_id for job_id, run_id in connection.execute(query)}


def _hypervolume(connection: sa.Connection, job_id: str, base: BaseFacts | None) -> float | None:
    if base is None:
        return None
    front = non_dominated(_complete_trials(connection, job_id), _point)
    return hypervolume([_point(row) for row in front], dense_flops=base.front_flops, chance=base.chance)


def _complete_trials(connection: sa.Connection, job_id: str) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    """In the order of their numbers."""
    table = schema.trials.c
    query = sa.select(table.number, table.origin, table.flops, table.params, table.accuracy).where(
        table.job_id == job_id, table.state == TrialState.COMPLETE.value, table.accuracy.is_not(None)
    )
    return connection.execute(query.order_by(table.number)).all()


def _point(row: sa.Row[*tuple[Any, ...]]) -> tuple[int, float]:
    return row.flops or 0, row.accuracy
