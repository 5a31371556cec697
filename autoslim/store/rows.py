"""What the store gives back: the nouns of a job, with the dates and numbers that only the store knows.

Dates are ISO 8601 in UTC.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

import sqlalchemy as sa

from autoslim.core.job import SearchJob
from autoslim.core.recipe import Recipe
from autoslim.core.record import Record
from autoslim.core.result import BaseFacts, EpochReport, Origin, SharedCost, TrialResult, TrialState


class JobState(enum.StrEnum):
    """CREATED becomes RUNNING with the first attempt; `Store.begin_attempt` takes any state back to RUNNING."""

    CREATED = "created"
    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (JobState.COMPLETE, JobState.STOPPED, JobState.FAILED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredJob(Record):
    """`uid` distinguishes this job from one of the same id in another store; `chosen` maps a budget's label to a trial's number.

    `shared` is what was worked out once for many trials, and what that cost. `seconds` is the wall time of all attempts.
    """

    job: SearchJob
    uid: str
    state: JobState
    attempt: int
    created_at: str
    updated_at: str
    base: BaseFacts | None = None
    chosen: dict[str, int] = dataclasses.field(default_factory=dict)
    shared: tuple[SharedCost, ...] = ()
    error: str | None = None
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTrial(Record):
    """`target` is the label of the budget it was solved onto, or `Target.FREE`; `attempt` the driver run that started it last."""

    result: TrialResult
    target: str
    attempt: int
    started_at: str
    ended_at: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredEpoch(Record):
    """`position` counts a trial's reports from 1 and stays when one is replaced; `revision` counts the writes."""

    position: int
    revision: int
    reported_at: str
    report: EpochReport


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackedRun(Record):
    """A run elsewhere that mirrors `entity` (`job`, or a trial's number); `logged` is the mirror's account of what it sent."""

    entity: str
    run_id: str
    logged: dict[str, Any] = dataclasses.field(default_factory=dict)


def job_of_row(row: sa.Row[Any]) -> StoredJob:
    return StoredJob(
        job=SearchJob.from_json(row.spec),
        uid=row.uid,
        state=JobState(row.state),
        attempt=row.attempt,
        created_at=row.created_at,
        updated_at=row.updated_at,
        base=None if row.base is None else BaseFacts.from_json(row.base),
        chosen=json.loads(row.chosen),
        shared=shared_of_row(row),
        error=row.error,
        seconds=row.seconds,
    )


def shared_of_row(row: sa.Row[Any]) -> tuple[SharedCost, ...]:
    return tuple(SharedCost.from_dict(cost) for cost in json.loads(row.shared))


def trial_of_row(row: sa.Row[Any]) -> StoredTrial:
    if row.result is None:
        recipe = Recipe.from_json(row.recipe)
        result = TrialResult(number=row.number, recipe=recipe, origin=Origin(row.origin), state=TrialState(row.state))
    else:
        result = TrialResult.from_json(row.result)
    return StoredTrial(result=result, target=row.target, attempt=row.attempt, started_at=row.started_at, ended_at=row.ended_at)


def epoch_of_row(row: sa.Row[Any]) -> StoredEpoch:
    report = EpochReport.from_json(row.report)
    return StoredEpoch(position=row.position, revision=row.revision, reported_at=row.reported_at, report=report)
