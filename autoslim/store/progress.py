"""How far searches have come, from the columns alone: a page of jobs is asked for often, and their results are large."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection

import sqlalchemy as sa

from autoslim.core.record import Record
from autoslim.core.result import BaseFacts, Target, TrialState, hypervolume
from autoslim.store import schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress(Record):
    """`best` is the highest validation accuracy by the label of the budget; `states` are numbers of trials.

    `hypervolume` is that of the front so far, a share; None before the dense model is known. `mlflow_run` is the parent run, if any.
    """

    states: dict[str, int]
    best: dict[str, float]
    hypervolume: float | None
    mlflow_run: str | None

    @property
    def ended(self) -> int:
        return sum(count for state, count in self.states.items() if state != TrialState.RUNNING)


def read_progress(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, Progress]:
    """Of those of the jobs that have begun."""
    jobs = connection.execute(sa.select(schema.jobs.c.id, schema.jobs.c.base).where(schema.jobs.c.id.in_(job_ids))).all()
    states = _states(connection, job_ids)
    best = _best(connection, job_ids)
    runs = _runs(connection, job_ids)
    return {
        row.id: Progress(
            states=states.get(row.id, {}),
            best=best.get(row.id, {}),
            hypervolume=_hypervolume(connection, row.id, row.base),
            mlflow_run=runs.get(row.id),
        )
        for row in jobs
    }


def _states(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, dict[str, int]]:
    table = schema.trials.c
    query = sa.select(table.job_id, table.state, sa.func.count()).where(table.job_id.in_(job_ids))
    found: dict[str, dict[str, int]] = {}
    for job_id, state, count in connection.execute(query.group_by(table.job_id, table.state)):
        found.setdefault(job_id, {})[state] = count
    return found


def _best(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, dict[str, float]]:
    table = schema.trials.c
    complete = sa.and_(table.job_id.in_(job_ids), table.state == TrialState.COMPLETE.value, table.target != Target.FREE.value)
    query = sa.select(table.job_id, table.target, sa.func.max(table.accuracy)).where(complete)
    found: dict[str, dict[str, float]] = {}
    for job_id, target, accuracy in connection.execute(query.group_by(table.job_id, table.target)):
        found.setdefault(job_id, {})[target] = accuracy
    return found


def _runs(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, str]:
    table = schema.tracking.c
    query = sa.select(table.job_id, table.run_id).where(table.job_id.in_(job_ids), table.entity == "job")
    return {job_id: run_id for job_id, run_id in connection.execute(query)}


def _hypervolume(connection: sa.Connection, job_id: str, base: str | None) -> float | None:
    if base is None:
        return None
    facts = BaseFacts.from_dict(json.loads(base))
    table = schema.trials.c
    query = sa.select(table.flops, table.accuracy).where(table.job_id == job_id, table.state == TrialState.COMPLETE.value)
    front: list[tuple[int, float]] = []
    for flops, accuracy in connection.execute(query.order_by(table.flops, table.accuracy.desc())):
        if not front or accuracy > front[-1][1]:
            front.append((flops, accuracy))
    return hypervolume(front, dense_flops=facts.dense_flops, chance=facts.chance)
