"""Whose turn it is: claims go round by tenant, so that one with a thousand jobs does not hold up one with a single job.

The tenant with the fewest running jobs is next; among those, the one whose last claim is longest ago. A tenant's own jobs start by
priority, then by age: a priority moves a job before others of its tenant, not before those of another.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from autoslim.store import schema
from autoslim.store.queued import RUNNING, QueueState

_queue, _turns = schema.queue.c, schema.turns.c
_INSERTS: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}

WITHIN_TENANT = (_queue.priority.desc(), _queue.id)
"""The order of a tenant's own jobs."""


def next_job(due: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """The queued job that is to be claimed now, of those that are `due`; a row that is locked is skipped."""
    ranked = ranked_jobs(due)
    # The state is asked for here, too: PostgreSQL checks it again where the row was changed before it could be locked.
    waiting = sa.select(schema.queue).join(ranked, ranked.c.id == _queue.id).where(_queue.state == QueueState.QUEUED.value)
    # A row that another process has locked is being claimed or cancelled: it is skipped, not waited for.
    return waiting.order_by(ranked.c.position).limit(1).with_for_update(skip_locked=True, key_share=True, of=schema.queue)


def ranked_jobs(due: sa.ColumnElement[bool] | None = None) -> sa.Subquery:
    """`id` and `position`, from 0, of the queued jobs that are `due` (None: all) in the order in which they start, if none ends between."""
    running = sa.select(_queue.tenant, sa.func.count().label("jobs")).where(_queue.state.in_([state.value for state in RUNNING]))
    busy = running.group_by(_queue.tenant).subquery()
    before = sa.func.row_number().over(partition_by=_queue.tenant, order_by=WITHIN_TENANT)
    joined = schema.queue.outerjoin(busy, busy.c.tenant == _queue.tenant).outerjoin(schema.turns, _turns.tenant == _queue.tenant)
    # By its n-th start from now a tenant has n more jobs running, so that this is the order of all starts and not of the next one alone.
    turn = (before + sa.func.coalesce(busy.c.jobs, 0)).label("rank"), sa.func.coalesce(_turns.turn, 0).label("turn")
    queued = sa.select(_queue.id, *turn).select_from(joined).where(_queue.state == QueueState.QUEUED.value)
    jobs = (queued if due is None else queued.where(due)).subquery()
    # A tenant that was never served comes first; of several, the one whose job is the oldest.
    order = (jobs.c.rank, jobs.c.turn, jobs.c.id)
    return sa.select(jobs.c.id, (sa.func.row_number().over(order_by=order) - 1).label("position")).subquery()


def take_turn(connection: sa.Connection, tenant: str) -> None:
    """The tenant was served: it is behind all others now."""
    last = sa.select(sa.func.coalesce(sa.func.max(_turns.turn), 0) + 1).scalar_subquery()
    insert = _INSERTS[connection.dialect.name](schema.turns).values(tenant=tenant, turn=last)
    # One statement: two claims of a tenant's first jobs may insert at once.
    connection.execute(insert.on_conflict_do_update(index_elements=[_turns.tenant], set_={"turn": insert.excluded.turn}))
