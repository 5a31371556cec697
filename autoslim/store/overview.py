"""The length of the queue and a job's position in it."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Collection

import sqlalchemy as sa

from autoslim.store import clock, schema
from autoslim.store.event_log import EventLog
from autoslim.store.queued import QueueState
from autoslim.store.turns import ranked_jobs

_queue = schema.queue.c
_RANKING_SECONDS = 1.0
"""How long a ranking serves reads, which show other processes' changes this much later: with a thousand queued jobs, ranking them for each
read took a fifth of the API's time."""


@dataclasses.dataclass(frozen=True)
class _Ranking:
    """The positions of all queued jobs as they were at `at`, on the monotonic clock, after so many `writes`."""

    positions: dict[str, int]
    writes: int
    at: float


class Overview(EventLog):
    """Part of `Queue`. A `tenant` of None means the jobs of all tenants."""

    _ranking: _Ranking | None = None

    def position(self, job_id: str) -> int | None:
        """How many queued jobs start before this one; None for one that is not queued."""
        return self.positions([job_id]).get(job_id)

    def positions(self, job_ids: Collection[str]) -> dict[str, int]:
        """The same for several, by id; those that are not queued are left out."""
        if not job_ids:
            return {}
        ranking = self._ranking
        if ranking is None or self._is_outdated(ranking) or not ranking.positions.keys() >= set(job_ids):
            self._ranking = ranking = self._rank()
        return {job_id: ranking.positions[job_id] for job_id in job_ids if job_id in ranking.positions}

    def _is_outdated(self, ranking: _Ranking) -> bool:
        return ranking.writes != self._database.writes or time.monotonic() - ranking.at > _RANKING_SECONDS

    def _rank(self) -> _Ranking:
        # Both before the query: what is written during it makes the ranking outdated.
        writes, at, ranks = self._database.writes, time.monotonic(), ranked_jobs()
        with self._database.reading() as connection:
            positions = {job_id: position for job_id, position in connection.execute(sa.select(ranks.c.id, ranks.c.position))}
        return _Ranking(positions, writes, at)

    def counts(self, tenant: str | None = None) -> dict[QueueState, int]:
        """Jobs by state; every state is there."""
        query = sa.select(_queue.state, sa.func.count()).where(_of(tenant)).group_by(_queue.state)
        with self._database.reading() as connection:
            found = {state: count for state, count in connection.execute(query)}
        return {state: found.get(state.value, 0) for state in QueueState}

    def oldest_queued_seconds(self, tenant: str | None = None) -> float | None:
        """For how long the oldest queued job has existed; None where none is queued."""
        query = sa.select(sa.func.min(_queue.created_at)).where(_queue.state == QueueState.QUEUED.value, _of(tenant))
        with self._database.reading() as connection:
            oldest, now = connection.execute(query).scalar(), clock.now(connection)
        return None if oldest is None else max(0.0, (now - datetime.datetime.fromisoformat(oldest)).total_seconds())


def _of(tenant: str | None) -> sa.ColumnElement[bool]:
    return sa.true() if tenant is None else _queue.tenant == tenant
