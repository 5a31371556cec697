"""`Queue`: the jobs that were submitted, durable, each driven by exactly one driver at a time."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from ulid import ULID

from autoslim.errors import IdempotencyError, NotFoundError, RequestError
from autoslim.store import clock, schema
from autoslim.store.event_log import write_events
from autoslim.store.leases import Leases, move
from autoslim.store.overview import Overview
from autoslim.store.queued import Failure, FailureClass, QueuedJob, QueueState, Quota
from autoslim.store.quotas import check_quota, check_work

_queue = schema.queue.c

UNPLANNED = "its plan is being made"
"""The reason of a queued job whose plan is not at hand."""

SILENT = "its driver gives no sign of life: its node, the disk or the cluster may be away"
"""The reason of a running job whose lease is not renewed."""

SILENT_SECONDS = 15.0
"""Whoever has a job renews its lease every two seconds; a busy machine or a database that is slow may take several times as long."""


class Queue(Leases, Overview):
    """Threads of one process may share a queue; every call is one transaction.

    A `tenant` of None sees every tenant's jobs. Every method raises UnavailableError, naming the URL, when the database cannot be reached,
    after `patience` seconds.
    """

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_writable(self) -> None:
        """Raises UnavailableError when nothing can be stored, as on a full disk."""
        self._database.check_writable()

    # Submission

    def submit(
        self,
        spec: str,
        *,
        tenant: str,
        name: str | None = None,
        priority: int = 5,
        idempotency_key: str | None = None,
        work: float | None = None,
        quota: Quota | None = None,
        unplanned_seconds: float = 0.0,
    ) -> tuple[QueuedJob, bool]:
        """The job, and whether it is new: the same key with the same request gives the job that was made of it before.

        `work` are the multiply-accumulates that the job computes at most. A job whose plan is not at hand is not claimed for
        `unplanned_seconds`, unless `set_planned` says before that it has one.

        Raises:
            IdempotencyError: when the key was used with another request.
            QuotaError: when the tenant's unfinished jobs would pass the `quota`.
        """
        digest = _digest(spec, name, priority)
        row: dict[str, Any] = {"id": str(ULID()), "tenant": tenant, "idempotency_key": idempotency_key, "body_digest": digest}
        row |= {"spec": spec, "name": name, "priority": priority, "work": work}
        try:
            with self._database.writing() as connection:
                known = self._by_key(connection, tenant, idempotency_key)
                if known is None:
                    if quota is not None:
                        check_quota(connection, tenant, quota, work or 0.0)
                    _insert(connection, row, unplanned_seconds)
        except sa.exc.IntegrityError:
            # Another request with this key was inserted in between.
            with self._database.reading() as connection:
                known = self._by_key(connection, tenant, idempotency_key)
            assert known is not None
        if known is None:
            return self.get(row["id"]), True
        if known.body_digest != digest:
            raise IdempotencyError(f"the idempotency key {idempotency_key!r} was used for another request, job {known.id}")
        return self.get(known.id), False

    def was_submitted(self, tenant: str, idempotency_key: str | None) -> bool:
        """Whether the key has made a job of the tenant: then `submit` makes none."""
        with self._database.reading() as connection:
            return self._by_key(connection, tenant, idempotency_key) is not None

    def set_planned(self, job_id: str, work: float | None, quota: Quota | None = None) -> None:
        """The job's plan has come, or will not come (None): the job may be claimed.

        Raises:
            QuotaError: when the tenant's unfinished jobs pass the `quota` with this work.
        """
        ready = {"not_before": None, "reason": None}
        # A job that was claimed meanwhile has a reason and a pause of its own.
        first = sa.and_(_queue.id == job_id, _queue.state == QueueState.QUEUED.value, _queue.attempt == 0)
        with self._database.writing() as connection:
            if quota is not None and work is not None:
                check_work(connection, self._row(connection, job_id, None).tenant, quota, work)
            connection.execute(schema.queue.update().where(first).values(**ready))
            connection.execute(schema.queue.update().where(_queue.id == job_id).values(work=work))

    def hold_unplanned(self, seconds: float) -> list[QueuedJob]:
        """All jobs that wait for their plans, which are not claimed for so long from now."""
        waiting = sa.and_(_queue.state == QueueState.QUEUED.value, _queue.attempt == 0, _queue.reason == UNPLANNED)
        with self._database.writing() as connection:
            moment = clock.instant(connection)
            connection.execute(schema.queue.update().where(waiting).values(not_before=moment.steady_text(seconds)))
            return [_job(row, moment.steady) for row in connection.execute(sa.select(schema.queue).where(waiting))]

    def refuse(self, job_id: str, failure: Failure) -> bool:
        """Fails a job whose plan shows that it cannot be done; False for one that is queued no longer, whose driver finds the same."""
        with self._database.writing() as connection:
            row, events = self._row(connection, job_id, None, lock=True), list[Any]()
            if row.state != QueueState.QUEUED.value:
                return False
            move(connection, row, QueueState.FAILED, clock.instant(connection), events, failure=failure)
            write_events(connection, events)
        return True

    def _by_key(self, connection: sa.Connection, tenant: str, key: str | None) -> sa.Row[Any] | None:
        if key is None:
            return None
        query = sa.select(schema.queue).where(_queue.tenant == tenant, _queue.idempotency_key == key)
        return connection.execute(query).one_or_none()

    # Reading

    def get(self, job_id: str, tenant: str | None = None) -> QueuedJob:
        """Raises NotFoundError, for another tenant's job as well."""
        with self._database.reading() as connection:
            return _job(self._row(connection, job_id, tenant), clock.steady(connection))

    def list(
        self,
        tenant: str | None = None,
        *,
        states: Collection[QueueState] | None = None,
        name: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[QueuedJob]:
        """Newest first; `before` is the id of the last one that was seen."""
        # Ids are ULIDs, which sort by time: the same column gives the order and the start of the next page.
        query = sa.select(schema.queue).order_by(_queue.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(_queue.tenant == tenant)
        if states is not None:
            query = query.where(_queue.state.in_([state.value for state in states]))
        if name is not None:
            query = query.where(_queue.name == name)
        if before is not None:
            query = query.where(_queue.id < before)
        with self._database.reading() as connection:
            now = clock.steady(connection)
            return [_job(row, now) for row in connection.execute(query)]

    # Cancellation and removal

    def request_cancel(self, job_id: str, tenant: str | None = None) -> QueuedJob:
        """Cancels the job: at once where no driver has it, otherwise its driver notices within seconds. Asking again changes nothing.

        Raises:
            NotFoundError: for another tenant's job as well.
        """
        with self._database.writing() as connection:
            row = self._row(connection, job_id, tenant, lock=True)
            state, now, events = QueueState(row.state), clock.instant(connection), list[Any]()
            if not state.ended and row.cancel_requested_at is None:
                requested: dict[str, Any] = {"cancel_requested_at": now.text}
                # A driver that has the job reads the request when it renews its lease, and writes its checkpoints before it ends.
                if state.running:
                    connection.execute(schema.queue.update().where(_queue.id == job_id).values(**requested, updated_at=now.text))
                    events.append((job_id, "message", {"text": "a cancellation was requested"}))
                else:
                    move(connection, row, QueueState.CANCELLED, now, events, **requested)
            write_events(connection, events)
        return self.get(job_id)

    def purge(self, job_id: str, tenant: str | None = None) -> None:
        """Removes an ended job with its events and trials; its files are the caller's to remove.

        Raises:
            NotFoundError: for another tenant's job as well.
            RequestError: for a job that has not ended.
        """
        with self._database.writing() as connection:
            row = self._row(connection, job_id, tenant, lock=True)
            if not QueueState(row.state).ended:
                raise RequestError(f"job {job_id} is {row.state}; only an ended job can be removed, so cancel it first")
            connection.execute(schema.queue.delete().where(_queue.id == job_id))
            connection.execute(schema.jobs.delete().where(schema.jobs.c.id == job_id))

    def _row(self, connection: sa.Connection, job_id: str, tenant: str | None, *, lock: bool = False) -> sa.Row[Any]:
        query = sa.select(schema.queue).where(_queue.id == job_id)
        if tenant is not None:
            query = query.where(_queue.tenant == tenant)
        row = connection.execute(query.with_for_update(key_share=True) if lock else query).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no job {job_id!r}")
        return row


def _insert(connection: sa.Connection, row: dict[str, Any], unplanned_seconds: float) -> None:
    moment = clock.instant(connection)
    row |= {"state": QueueState.QUEUED.value, "attempt": 0, "fence": 0, "losses": 0, "pauses": 0}
    row |= {"created_at": moment.text, "updated_at": moment.text}
    if unplanned_seconds > 0:
        row |= {"reason": UNPLANNED, "not_before": moment.steady_text(unplanned_seconds)}
    connection.execute(schema.queue.insert().values(**row))
    write_events(connection, [(row["id"], "state", {"state": QueueState.QUEUED.value, "attempt": 0})])


def _digest(spec: str, name: str | None, priority: int) -> str:
    """The same for two requests that differ in white space or the order of fields only."""
    canonical = json.dumps([json.loads(spec), name, priority], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _job(row: sa.Row[Any], now: datetime.datetime) -> QueuedJob:
    """`now` is of the steady clock, which leases are counted in."""
    fields = {field: getattr(row, field) for field in QueuedJob.__dataclass_fields__ if field not in ("state", "failure")}
    if row.reason is None and QueueState(row.state).running and _is_silent(row, now):
        # Nobody can write a reason where the database's disk is full, and nobody does where the supervisor is gone, too.
        fields["reason"] = SILENT
    failure = None
    if row.error_class is not None:
        failure = Failure(failure_class=FailureClass(row.error_class), message=row.error, next=row.next_command)
    return QueuedJob(**fields, state=QueueState(row.state), failure=failure)


def _is_silent(row: sa.Row[Any], now: datetime.datetime) -> bool:
    # A claim of an earlier version has no time of its renewal.
    silent = row.renewed_at is not None and row.renewed_at < clock.text(now, offset_seconds=-SILENT_SECONDS)
    return silent or (row.lease_until is not None and row.lease_until < clock.text(now))
