"""`Store`: the jobs, trials and epochs of searches, in any database that SQLAlchemy can reach."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from autoslim.core.job import SearchJob
from autoslim.core.recipe import Recipe
from autoslim.core.result import BaseFacts, EpochReport, Origin, SharedCost, TrialResult, TrialState
from autoslim.errors import JobError, RequestError
from autoslim.store import schema
from autoslim.store.progress import SearchProgress, read_progress
from autoslim.store.rows import (
    JobState,
    StoredEpoch,
    StoredJob,
    StoredTrial,
    epoch_of_row,
    job_of_row,
    shared_of_row,
    trial_of_row,
)
from autoslim.store.tracked_runs import TrackedRuns


class Store(TrackedRuns):
    """Threads of one process may share a store; every call is one transaction.

    Every method raises UnavailableError, naming the URL, when the database cannot be reached.
    """

    # Jobs

    def create_job(self, job: SearchJob) -> StoredJob:
        """Raises RequestError when there is a job of this id already."""
        now = _now()
        row = {"id": job.id, "uid": uuid.uuid4().hex, "spec": job.to_json(), "state": JobState.CREATED.value, "attempt": 0}
        try:
            with self._database.writing() as connection:
                connection.execute(schema.jobs.insert().values(**row, chosen="{}", created_at=now, updated_at=now))
        except sa.exc.IntegrityError:
            raise RequestError(f"there is a job {job.id!r} in {self.url} already; resume it, or choose another id") from None
        return self.job(job.id)

    def jobs(self) -> list[StoredJob]:
        """All jobs, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(schema.jobs).order_by(schema.jobs.c.created_at, schema.jobs.c.id))
            return [job_of_row(row) for row in rows]

    def has_job(self, job_id: str) -> bool:
        with self._database.reading() as connection:
            return connection.execute(sa.select(schema.jobs.c.id).where(schema.jobs.c.id == job_id)).first() is not None

    def job(self, job_id: str) -> StoredJob:
        """Raises RequestError naming the jobs there are, when this is none of them."""
        with self._database.reading() as connection:
            return job_of_row(self._job_row(connection, job_id))

    def find_job(self, job_id: str) -> StoredJob | None:
        """None for a job whose search has not started."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(schema.jobs).where(schema.jobs.c.id == job_id)).one_or_none()
        return None if row is None else job_of_row(row)

    def progress(self, job_ids: Collection[str]) -> dict[str, SearchProgress]:
        """By id, of those of the jobs whose search has started."""
        if not job_ids:
            return {}
        with self._database.reading() as connection:
            return read_progress(connection, job_ids)

    def set_base(self, job_id: str, facts: BaseFacts) -> None:
        self._update_job(job_id, base=facts.to_json())

    def set_chosen(self, job_id: str, chosen: Mapping[str, int]) -> None:
        """`chosen` maps a budget's label to the number of the trial whose model is delivered for it."""
        self._update_job(job_id, chosen=json.dumps(dict(chosen)))

    def set_output(self, job_id: str, output: str) -> None:
        """The job's folder in this attempt, which is another one where it was moved, or where the output lies elsewhere (`output_uri`)."""
        self._update_job(job_id, spec=self.job(job_id).job.replace(output=output).to_json())

    def add_shared_costs(self, job_id: str, costs: Sequence[SharedCost]) -> None:
        """Adds the costs of shared work; a key that is there already is not added twice."""
        with self._database.writing() as connection:
            known_costs = shared_of_row(self._job_row(connection, job_id))
            known = {cost.key for cost in known_costs}
            fresh = [cost for cost in costs if cost.key not in known]
            if fresh:
                text = json.dumps([cost.to_dict() for cost in (*known_costs, *fresh)])
                values = {"shared": text, "updated_at": _now()}
                connection.execute(schema.jobs.update().where(schema.jobs.c.id == job_id).values(**values))

    def set_seconds(self, job_id: str, seconds: float) -> None:
        """The wall time of all attempts so far."""
        with self._database.writing() as connection:
            # No change that a reader waits for: `updated_at` stays.
            connection.execute(schema.jobs.update().where(schema.jobs.c.id == job_id).values(seconds=seconds))

    def set_state(self, job_id: str, state: JobState, *, error: str | None = None) -> None:
        self._update_job(job_id, state=state.value, error=error)

    def begin_attempt(self, job_id: str) -> int:
        """Marks the start of a driver run and returns its number, from 1. Trials left running are then `unfinished`."""
        with self._database.writing() as connection:
            attempt: int = self._job_row(connection, job_id).attempt + 1
            values = {"attempt": attempt, "state": JobState.RUNNING.value, "error": None, "updated_at": _now()}
            connection.execute(schema.jobs.update().where(schema.jobs.c.id == job_id).values(**values))
        return attempt

    # Trials

    def add_trial(self, job_id: str, number: int, recipe: Recipe, *, origin: Origin, target: str) -> None:
        """`target` is the label of the budget that the recipe is solved onto, or `Target.FREE`."""
        row = {"job_id": job_id, "number": number, "origin": origin.value, "target": target, "state": TrialState.RUNNING.value}
        row |= {"recipe_key": recipe.key, "recipe": recipe.to_json(), "started_at": _now()}
        try:
            with self._database.writing() as connection:
                attempt = self._job_row(connection, job_id).attempt
                connection.execute(schema.trials.insert().values(**row, attempt=attempt))
        except sa.exc.IntegrityError:
            raise JobError(f"job {job_id!r} has a trial {number} already") from None

    def add_ended_trial(self, job_id: str, result: TrialResult, *, target: str) -> None:
        """A trial that needs no training, in one transaction: it is never seen running."""
        assert result.state is not TrialState.RUNNING, "a result that is still running"
        now = _now()
        row = {
            "job_id": job_id,
            "number": result.number,
            "origin": result.origin.value,
            "target": target,
            "state": result.state.value,
        }
        row |= {"recipe_key": result.recipe.key, "recipe": result.recipe.to_json(), "started_at": now, "ended_at": now}
        row |= {"accuracy": result.accuracy, "flops": result.flops, "params": result.params, "error": result.error}
        try:
            with self._database.writing() as connection:
                attempt = self._job_row(connection, job_id).attempt
                connection.execute(schema.trials.insert().values(**row, result=result.to_json(), attempt=attempt))
        except sa.exc.IntegrityError:
            raise JobError(f"job {job_id!r} has a trial {result.number} already") from None

    def reopen_trial(self, job_id: str, number: int) -> None:
        """Takes an ended trial's result away, as of one that an earlier attempt left running."""
        with self._database.writing() as connection:
            attempt = self._trial_row(connection, job_id, number).attempt
            nothing: dict[str, Any] = dict.fromkeys(("result", "ended_at", "accuracy", "flops", "params", "error"))
            values = nothing | {"state": TrialState.RUNNING.value, "attempt": attempt}
            connection.execute(schema.trials.update().where(_is_trial(job_id, number)).values(**values))

    def unfinished(self, job_id: str) -> list[StoredTrial]:
        """Trials that an earlier attempt left running, in number order."""
        attempt = self.job(job_id).attempt
        # A running trial of the current attempt has a worker; one of an earlier attempt has none any more.
        return [t for t in self.stored_trials(job_id) if t.result.state is TrialState.RUNNING and t.attempt < attempt]

    def restart_trial(self, job_id: str, number: int) -> None:
        """Takes a running trial into the current attempt; its epochs stay, because it resumes from its checkpoint."""
        with self._database.writing() as connection:
            row = self._trial_row(connection, job_id, number)
            if row.state != TrialState.RUNNING:
                raise JobError(f"trial {number} of job {job_id!r} cannot be restarted: it is {row.state}")
            attempt = self._job_row(connection, job_id).attempt
            connection.execute(schema.trials.update().where(_is_trial(job_id, number)).values(attempt=attempt))

    def finish_trial(self, job_id: str, result: TrialResult) -> None:
        """Does nothing when the same result is there already.

        Raises:
            JobError: when the trial has ended with another result, or has another recipe.
        """
        assert result.state is not TrialState.RUNNING, "a result that is still running"
        with self._database.writing() as connection:
            row = self._trial_row(connection, job_id, result.number)
            # Not as text: what an earlier version stored lacks the fields that are younger.
            if row.result is not None and TrialResult.from_json(row.result) == result:
                return
            text = result.to_json()
            if row.state != TrialState.RUNNING:
                raise JobError(f"trial {result.number} of job {job_id!r} is {row.state} already, with another result")
            if row.recipe_key != result.recipe.key:
                raise JobError(f"trial {result.number} of job {job_id!r} has recipe {row.recipe_key}, not {result.recipe.key}")
            columns = {"accuracy": result.accuracy, "flops": result.flops, "params": result.params, "error": result.error}
            values = columns | {"state": result.state.value, "result": text, "ended_at": _now()}
            connection.execute(schema.trials.update().where(_is_trial(job_id, result.number)).values(**values))

    def set_latency(self, job_id: str, number: int, milliseconds: float) -> None:
        """What a complete trial's model took when it came into question; the rest of its result stays as it is."""
        with self._database.writing() as connection:
            row = self._trial_row(connection, job_id, number)
            if row.state != TrialState.COMPLETE:
                raise JobError(f"trial {number} of job {job_id!r} has no model to measure: it is {row.state}")
            result = TrialResult.from_json(row.result).replace(latency_measured_ms=milliseconds)
            connection.execute(schema.trials.update().where(_is_trial(job_id, number)).values(result=result.to_json()))
            # The sync to MLflow notices a change by this.
            connection.execute(schema.jobs.update().where(schema.jobs.c.id == job_id).values(updated_at=_now()))

    def trials(self, job_id: str) -> list[TrialResult]:
        """All trials in number order, running ones too."""
        return [trial.result for trial in self.stored_trials(job_id)]

    def stored_trials(self, job_id: str, *, after: int = -1, limit: int | None = None) -> list[StoredTrial]:
        """In number order: those of a higher number than `after`, at most `limit`."""
        table = schema.trials.c
        query = sa.select(schema.trials).where(table.job_id == job_id, table.number > after).order_by(table.number).limit(limit)
        with self._database.reading() as connection:
            return [trial_of_row(row) for row in connection.execute(query)]

    # Epochs

    def report(self, job_id: str, number: int, report: EpochReport) -> None:
        """Adds a point to a trial's curves. A resumed trial reports some again: the later one replaces the earlier."""
        table = schema.epochs.c
        # A float that was computed twice may differ in its last digit.
        epoch, text = round(report.epoch, 6), report.to_json()
        with self._database.writing() as connection:
            attempt = self._trial_row(connection, job_id, number).attempt
            trial = sa.and_(table.job_id == job_id, table.number == number)
            point = sa.and_(trial, table.epoch == epoch, table.phase == report.phase.value)
            known = connection.execute(sa.select(table.report).where(point)).scalar()
            # Without a new revision, the sync to MLflow does not send the point again.
            if known == text:
                return
            last = sa.select(sa.func.max(table.position), sa.func.max(table.revision)).where(trial)
            position, revision = connection.execute(last).one()
            # A revision counts every change, for readers that ask what is new; a position keeps the order of first reports.
            values = {"revision": (revision or 0) + 1, "attempt": attempt, "reported_at": _now(), "report": text}
            if known is not None:
                connection.execute(schema.epochs.update().where(point).values(**values))
            else:
                values |= {"job_id": job_id, "number": number, "position": (position or 0) + 1}
                connection.execute(schema.epochs.insert().values(**values, epoch=epoch, phase=report.phase.value))

    def epochs(self, job_id: str, number: int) -> list[EpochReport]:
        """A trial's curves, in the order its points were first reported."""
        return [epoch.report for epoch in self.stored_epochs(job_id, number)]

    def stored_epochs(self, job_id: str, number: int, *, since: int = 0) -> list[StoredEpoch]:
        """Those whose revision is above `since`."""
        table = schema.epochs.c
        query = sa.select(schema.epochs).where(table.job_id == job_id, table.number == number, table.revision > since)
        with self._database.reading() as connection:
            return [epoch_of_row(row) for row in connection.execute(query.order_by(table.position))]

    def revisions(self, job_id: str) -> dict[int, int]:
        """The last revision of every trial that has reported."""
        table = schema.epochs.c
        query = sa.select(table.number, sa.func.max(table.revision)).where(table.job_id == job_id).group_by(table.number)
        with self._database.reading() as connection:
            return {number: revision for number, revision in connection.execute(query)}

    # Changes

    def fingerprint(self, job_id: str) -> tuple[object, ...]:
        """Changes whenever the job, a trial or an epoch does; cheap to ask."""
        # One aggregate for each way to change: a trial is added, ends, or is restarted by a later attempt.
        of_trials = (sa.func.count(), sa.func.count(schema.trials.c.ended_at), sa.func.sum(schema.trials.c.attempt))
        counted = sa.select(*of_trials).where(schema.trials.c.job_id == job_id)
        reported = sa.select(sa.func.count(), sa.func.sum(schema.epochs.c.revision)).where(schema.epochs.c.job_id == job_id)
        with self._database.reading() as connection:
            # Time that passes is no change.
            job = [value for name, value in self._job_row(connection, job_id)._mapping.items() if name != "seconds"]
            trials, epochs = connection.execute(counted).one(), connection.execute(reported).one()
        return (*job, *trials, *epochs)

    # Rows

    def _trial_row(self, connection: sa.Connection, job_id: str, number: int) -> sa.Row[Any]:
        row = connection.execute(sa.select(schema.trials).where(_is_trial(job_id, number))).one_or_none()
        if row is None:
            raise JobError(f"job {job_id!r} has no trial {number}")
        return row

    def _update_job(self, job_id: str, **values: Any) -> None:
        with self._database.writing() as connection:
            self._job_row(connection, job_id)
            connection.execute(schema.jobs.update().where(schema.jobs.c.id == job_id).values(**values, updated_at=_now()))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _is_trial(job_id: str, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(schema.trials.c.job_id == job_id, schema.trials.c.number == number)
