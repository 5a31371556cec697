"""What a tenant has in the queue, held against its quota."""

from __future__ import annotations

import sqlalchemy as sa

from autoslim.errors import QuotaError
from autoslim.store import schema
from autoslim.store.queued import QueueState, Quota

_queue = schema.queue.c


def check_quota(connection: sa.Connection, tenant: str, quota: Quota, work: float) -> None:
    """Before a job of so much `work` is inserted, in the same transaction.

    Raises:
        QuotaError: when the tenant's unfinished jobs would pass the quota with it.
    """
    if connection.dialect.name == "postgresql":
        # Two submits at once would not see each other's job; SQLite has one writer anyway.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(tenant, 0))))
    jobs = connection.execute(sa.select(sa.func.count()).where(_unfinished(tenant))).scalar_one()
    if jobs >= quota.jobs:
        raise QuotaError(
            f"{jobs} jobs of this tenant are queued or running; allowed: at most {quota.jobs} (limits.queued); "
            "cancel one, or submit again when one has ended"
        )
    check_work(connection, tenant, quota, work)


def check_work(connection: sa.Connection, tenant: str, quota: Quota, work: float) -> None:
    """Raises QuotaError when `work` is too much beside that of the tenant's unfinished jobs."""
    other = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(_queue.work), 0.0)).where(_unfinished(tenant))).scalar_one()
    if other + work > quota.work:
        raise QuotaError(
            f"this job computes up to {work:.2g} multiply-accumulates and the other unfinished jobs of this tenant {other:.2g}; allowed: "
            f"at most {quota.work:.2g} together (limits.work); ask for fewer trials or epochs, or submit again when a job has ended"
        )


def _unfinished(tenant: str) -> sa.ColumnElement[bool]:
    return sa.and_(_queue.tenant == tenant, _queue.state.in_([state.value for state in QueueState if not state.ended]))
