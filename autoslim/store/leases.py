"""Which process has which job: claims with a lease and a fence, and the changes out of a running state.

A lease is the time until which no other process may take the job. A fence is a number that rises with every change of owner: a process
with an older one has lost the job, even where it is still running, and is refused.

Leases are counted by the database's clock, while a driver counts its own by a monotonic one. Where somebody sets PostgreSQL's clock, all
leases look over, or none ends for long: whoever looks for lost jobs notices it, before it takes any, and lets every lease begin anew. A
driver that lives renews its own within seconds; the job of one that does not is lost one lease later than it would have been.

Rows are locked as for updates that leave their key alone (`key_share`): writing an event reads its job's key, and need not wait for them.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from autoslim.errors import JobError, LeaseLostError
from autoslim.store import clock, schema, turns
from autoslim.store.database import Guard
from autoslim.store.event_log import EventLog, write_events
from autoslim.store.queued import RUNNING, TRANSITIONS, Claim, Failure, FailureClass, QueueState

LOSSES_ALLOWED = 5
"""Losses of its driver in a row, with no trial ended in between, after which a job fails."""

# Seconds. However often a job was delayed before, it is tried again within a minute.
_LONGEST_DELAY = 60.0
# Seconds. Longer than any pause or delay: one that seems to have more left is of a time before the clock was set back.
_LONGEST_WAIT = 2 * _LONGEST_DELAY

_queue = schema.queue.c
_Events = list[tuple[str, str, dict[str, Any]]]


class Leases(EventLog):
    """Part of `Queue`. Every call is one transaction."""

    # When this queue last looked for lost jobs; None before it has.
    _looked: clock.Instant | None = None

    def claim(self, owner: str, lease_seconds: float) -> Claim | None:
        """Takes the next job: tenants take turns, and of a tenant's jobs the one with the highest priority is first, then the oldest
        (`turns`). None when there is none to take.

        Jobs whose lease ran out and pauses that are over return to the queue first.
        """
        with self._database.writing() as connection:
            now, events = clock.instant(connection), list[Any]()
            self._requeue(connection, now, events)
            due = sa.or_(_queue.not_before.is_(None), _waited(now))
            row = connection.execute(turns.next_job(due)).one_or_none()
            claim = None
            if row is not None:
                claim = Claim(id=row.id, attempt=row.attempt + 1, fence=row.fence + 1, owner=owner)
                values: dict[str, Any] = {"attempt": claim.attempt, "not_before": None}
                values |= _ownership(claim, now, lease_seconds) | {"started_at": row.started_at or now.text}
                move(connection, row, QueueState.STARTING, now, events, **values)
                turns.take_turn(connection, row.tenant)
            write_events(connection, events)
        self._looked = now
        return claim

    def requeue_expired(self) -> None:
        """Returns jobs whose lease has expired, and those whose pause is over, to the queue, for a supervisor that cannot claim any now."""
        with self._database.writing() as connection:
            now, events = clock.instant(connection), list[Any]()
            self._requeue(connection, now, events)
            write_events(connection, events)
        self._looked = now

    def _requeue(self, connection: sa.Connection, now: clock.Instant, events: _Events) -> None:
        """Once the transaction is committed, `now` is when this queue has `_looked`."""
        # Nobody sets the steady clock of a SQLite file.
        if connection.dialect.name != "sqlite":
            _begin_anew(connection, now, every=self._looked is not None and now.was_set_since(self._looked))
        _requeue_lost(connection, now, events)
        _requeue_paused(connection, now, events)

    def adopt(self, job_id: str, attempt: int, owner: str, lease_seconds: float) -> Claim:
        """A started driver takes over the lease of its job from the supervisor, whose claim ends here; the job becomes PREPARING.

        Raises:
            LeaseLostError: when the job is neither STARTING nor PAUSED in this attempt, or another process has adopted it.
        """
        with self._database.writing() as connection:
            now, events = clock.instant(connection), list[Any]()
            row = _unadopted(connection, job_id, attempt)
            if row is None:
                raise LeaseLostError(f"attempt {attempt} of job {job_id} is not to be started; another driver may have it")
            claim = Claim(id=job_id, attempt=attempt, fence=row.fence + 1, owner=owner)
            move(connection, row, QueueState.PREPARING, now, events, not_before=None, **_ownership(claim, now, lease_seconds))
            write_events(connection, events)
        return claim

    def renew(self, claim: Claim, lease_seconds: float) -> bool:
        """Extends the lease by `lease_seconds` from now. Returns whether a user has asked to cancel the job.

        Raises:
            LeaseLostError: when the job is no longer this claim's.
        """
        with self._database.writing() as connection:
            row = _claimed_row(connection, claim)
            lease = _lease(clock.instant(connection), lease_seconds)
            connection.execute(schema.queue.update().where(_queue.id == claim.id).values(**lease))
        return row.cancel_requested_at is not None

    def transition(
        self,
        claim: Claim,
        state: QueueState,
        *,
        reason: str | None = None,
        failure: Failure | None = None,
        result: str | None = None,
    ) -> None:
        """Takes the job to its next state. FAILED needs a `failure`, SUCCEEDED a `result` (JSON).

        PAUSED and QUEUED give the job back; a paused one is due again after a delay that doubles with every pause in a row, up to a minute.
        Where a user has asked to cancel the job, it becomes CANCELLED instead.

        Raises:
            LeaseLostError: when the job is no longer this claim's.
            JobError: for a transition that `TRANSITIONS` does not have.
        """
        assert (state is QueueState.FAILED) <= (failure is not None), "a job fails of something"
        with self._database.writing() as connection:
            now, events = clock.instant(connection), list[Any]()
            row = _claimed_row(connection, claim)
            if row.cancel_requested_at is not None and state in (QueueState.QUEUED, QueueState.PAUSED):
                state, reason = QueueState.CANCELLED, None
            values: dict[str, Any] = {} if result is None else {"result": result}
            if state is QueueState.PAUSED:
                values |= {"pauses": row.pauses + 1, "not_before": now.steady_text(_delay(row.pauses))}
            move(connection, row, state, now, events, reason=reason, failure=failure, **values)
            write_events(connection, events)

    def record(self, claim: Claim, type: str, data: dict[str, Any], *, progress: bool = False) -> None:
        """An event of the claim's driver. `progress` forgives the losses and pauses before it. Raises LeaseLostError."""
        with self._database.writing() as connection:
            _claimed_row(connection, claim)
            if progress:
                # Losses and pauses count in a row: a trial that has ended shows that the job can be driven.
                connection.execute(schema.queue.update().where(_queue.id == claim.id).values(losses=0, pauses=0))
            write_events(connection, [(claim.id, type, data)])

    def expire_lease(self, job_id: str, attempt: int) -> None:
        """Ends this attempt's lease now, for a caller that knows its driver to be dead: the next claim need not wait for its end."""
        with self._database.writing() as connection:
            # The job is not moved here: `_requeue_lost` alone decides what becomes of a lost job.
            over = _lease(clock.instant(connection), -1.0)
            this = sa.and_(_queue.id == job_id, _queue.attempt == attempt, _queue.state.in_([state.value for state in RUNNING]))
            connection.execute(schema.queue.update().where(this).values(**over))

    def pause(self, job_id: str, attempt: int, reason: str, seconds: float) -> None:
        """Pauses the job of a driver that waits for a node. This is no loss of a driver, since nothing of it has run.

        The job is PAUSED for `reason`, and its driver may adopt it at any time; after `seconds` without another call it is queued again.
        Does nothing for a job that is not STARTING or PAUSED in this attempt.
        """
        with self._database.writing() as connection:
            row = _unadopted(connection, job_id, attempt)
            if row is None:
                return
            now, events = clock.instant(connection), list[Any]()
            not_before = now.steady_text(seconds)
            if row.cancel_requested_at is not None:
                move(connection, row, QueueState.CANCELLED, now, events)
            elif row.state == QueueState.STARTING.value:
                move(connection, row, QueueState.PAUSED, now, events, reason=reason, not_before=not_before)
            else:
                connection.execute(schema.queue.update().where(_queue.id == job_id).values(not_before=not_before, reason=reason))
            write_events(connection, events)

    def set_reason(self, claim: Claim, reason: str | None) -> None:
        """Sets why the job stands still in its state; None when it no longer does. A new reason is an event. Raises LeaseLostError."""
        with self._database.writing() as connection:
            if _claimed_row(connection, claim).reason == reason:
                return
            connection.execute(schema.queue.update().where(_queue.id == claim.id).values(reason=reason))
            if reason is not None:
                write_events(connection, [(claim.id, "message", {"text": reason, "attempt": claim.attempt})])

    def set_reason_of_running(self, reason: str | None, *, instead_of: str | None = None) -> None:
        """The same for all running jobs whose reason is `instead_of`, without an event: whatever they wait for concerns them all."""
        running = _queue.state.in_([state.value for state in RUNNING])
        with self._database.writing() as connection:
            connection.execute(
                schema.queue.update().where(running, _queue.reason.is_not_distinct_from(instead_of)).values(reason=reason)
            )


def guard(claim: Claim, lost: Callable[[str], None]) -> Guard:
    """For a `Store` in the queue's database: what the claim's driver writes of its search has the fence that its events have. A process
    that was stopped past its lease writes nothing when it is woken, also before it renews the lease.

    `lost` gets the reason when another process has the job; if it returns, the write raises LeaseLostError.
    """

    def check(connection: sa.Connection) -> None:
        try:
            _claimed_row(connection, claim)
        except LeaseLostError as error:
            lost(str(error))
            raise

    return check


def _unadopted(connection: sa.Connection, job_id: str, attempt: int) -> sa.Row[Any] | None:
    """The row, locked, of a job that the driver of this attempt may still adopt."""
    states = [QueueState.STARTING.value, QueueState.PAUSED.value]
    current = sa.and_(_queue.id == job_id, _queue.attempt == attempt, _queue.state.in_(states))
    return connection.execute(sa.select(schema.queue).where(current).with_for_update(key_share=True)).one_or_none()


def _ownership(claim: Claim, now: clock.Instant, seconds: float) -> dict[str, Any]:
    return {"fence": claim.fence, "owner": claim.owner, **_lease(now, seconds)}


def _lease(now: clock.Instant, seconds: float) -> dict[str, str]:
    return {"lease_until": now.steady_text(seconds), "renewed_at": now.steady_text()}


def _claimed_row(connection: sa.Connection, claim: Claim) -> sa.Row[Any]:
    """The row of the claim's job, locked. Raises LeaseLostError when another process has the job."""
    still_held = sa.and_(_queue.id == claim.id, _queue.fence == claim.fence, _queue.state.in_([state.value for state in RUNNING]))
    row = connection.execute(sa.select(schema.queue).where(still_held).with_for_update(key_share=True)).one_or_none()
    if row is None:
        raise LeaseLostError(f"job {claim.id} is no longer held by {claim.owner} (attempt {claim.attempt})")
    return row


def move(
    connection: sa.Connection,
    row: sa.Row[Any],
    state: QueueState,
    now: clock.Instant,
    events: _Events,
    *,
    reason: str | None = None,
    failure: Failure | None = None,
    **values: Any,
) -> None:
    """The one place where a state changes. `row` is locked by the caller."""
    if state not in TRANSITIONS[QueueState(row.state)]:
        raise JobError(f"job {row.id} is {row.state} and cannot become {state.value}")
    values |= {"state": state.value, "reason": reason, "updated_at": now.text}
    if not state.running:
        # The former owner has lost the lease.
        values |= {"owner": None, "lease_until": None, "fence": row.fence + 1}
    if state.ended:
        values |= {"ended_at": now.text, "not_before": None}
    if failure is not None:
        values |= {"error_class": failure.failure_class.value, "error": failure.message, "next_command": failure.next}
    connection.execute(schema.queue.update().where(_queue.id == row.id).values(**values))
    data: dict[str, Any] = {"state": state.value, "attempt": values.get("attempt", row.attempt)}
    data |= {} if reason is None else {"reason": reason}
    events.append((row.id, "state", data | ({} if failure is None else {"failure": failure.to_dict()})))


def _begin_anew(connection: sa.Connection, now: clock.Instant, *, every: bool) -> None:
    """Lets leases begin again now, each as long as it was given for: `every` one, or those that were renewed at a time that is still to
    come, before somebody set the clock back."""
    running = _queue.state.in_([state.value for state in RUNNING])
    later = _queue.renewed_at > now.steady_text(clock.STEP_SECONDS)
    # Not those of an earlier version, which has no time of its renewal. No row is left out because somebody else has it at this moment: it
    # would look lost in the next statement. In one order, so that two who do this at once do not wait for each other.
    given = _queue.renewed_at.is_not(None) if every else later
    rows = connection.execute(
        sa.select(schema.queue).where(running, given).order_by(_queue.id).with_for_update(key_share=True)
    ).all()
    # Waiting for them may have taken long, and a driver counts its lease from its own renewal.
    from_now = clock.instant(connection) if rows else now
    for row in rows:
        end, begin = map(datetime.datetime.fromisoformat, (row.lease_until, row.renewed_at))
        lease = _lease(from_now, (end - begin).total_seconds())
        connection.execute(schema.queue.update().where(_queue.id == row.id).values(**lease))


def _requeue_lost(connection: sa.Connection, now: clock.Instant, events: _Events) -> None:
    """Running jobs whose lease ran out: their drivers are dead, or are refused from now on."""
    running = _queue.state.in_([state.value for state in RUNNING])
    over = _queue.lease_until < now.steady_text()
    lost = sa.select(schema.queue).where(running, over).with_for_update(skip_locked=True, key_share=True)
    for row in connection.execute(lost).all():
        losses = row.losses + 1
        if row.cancel_requested_at is not None:
            # The driver that was to obey the cancellation is gone.
            move(connection, row, QueueState.CANCELLED, now, events)
        elif losses >= LOSSES_ALLOWED:
            move(connection, row, QueueState.FAILED, now, events, failure=_lost_too_often(row.id, losses), losses=losses)
        else:
            # A first loss may have any cause and costs no time; a job that kills its drivers must not keep the queue busy.
            delay = 0.0 if losses == 1 else _delay(losses - 2)
            values = {"losses": losses, "not_before": now.steady_text(delay)}
            move(connection, row, QueueState.QUEUED, now, events, reason="its driver was lost", **values)


def _requeue_paused(connection: sa.Connection, now: clock.Instant, events: _Events) -> None:
    over = sa.and_(_queue.state == QueueState.PAUSED.value, _waited(now))
    for row in connection.execute(sa.select(schema.queue).where(over).with_for_update(skip_locked=True, key_share=True)).all():
        move(connection, row, QueueState.QUEUED, now, events)


def _waited(now: clock.Instant) -> sa.ColumnElement[bool]:
    """Whether a job's pause or delay is over. One that waits for its first plan (attempt 0) waits as long as it is told to."""
    set_back = sa.and_(_queue.attempt > 0, _queue.not_before > now.steady_text(_LONGEST_WAIT))
    return sa.or_(_queue.not_before <= now.steady_text(), set_back)


def _delay(earlier: int) -> float:
    # The exponent is bounded, since a large one would overflow.
    return float(min(_LONGEST_DELAY, 2.0 ** min(earlier, 10)))


def _lost_too_often(job_id: str, losses: int) -> Failure:
    return Failure(
        failure_class=FailureClass.INFRA,
        message=f"the search's driver was lost {losses} times in a row, with no trial ended in between",
        next=f"autoslim logs {job_id}",
    )
