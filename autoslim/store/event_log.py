"""The events of jobs, in order, for readers that come back later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from autoslim.errors import NotFoundError
from autoslim.store import clock, schema
from autoslim.store.database import Database
from autoslim.store.queued import Event

_LOCK = 0x6175746F6576656E


class EventLog:
    """Part of `Queue`."""

    def __init__(self, url: str, *, patience: float = 0.0) -> None:
        self._database = Database(url, patience=patience)
        self.url = self._database.url

    def append_event(self, job_id: str, type: str, data: dict[str, Any]) -> None:
        """Raises NotFoundError where there is no such job."""
        try:
            with self._database.writing() as connection:
                write_events(connection, [(job_id, type, data)])
        except sa.exc.IntegrityError:
            raise NotFoundError(f"there is no job {job_id!r} in {self.url}") from None

    def last_seq(self) -> int:
        """The number of the newest event; 0 before the first."""
        with self._database.reading() as connection:
            return int(connection.execute(sa.select(sa.func.max(schema.events.c.seq))).scalar() or 0)

    def events(self, job_id: str | None = None, *, after: int = 0, limit: int = 500) -> list[Event]:
        """Those after the one of this number, oldest first; of all jobs where none is named."""
        table = schema.events.c
        query = sa.select(schema.events).where(table.seq > after).order_by(table.seq).limit(limit)
        if job_id is not None:
            query = query.where(table.job_id == job_id)
        with self._database.reading() as connection:
            return [_event(row) for row in connection.execute(query)]


def write_events(connection: sa.Connection, events: Sequence[tuple[str, str, dict[str, Any]]]) -> None:
    """(job, type, data) each. The last thing in a transaction, because it makes other writers of events wait for the rest of it."""
    if not events:
        return
    if connection.dialect.name == "postgresql":
        # Otherwise a lower number could be committed after a higher one, and a reader that continues after the higher one would miss it.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    at = clock.text(clock.now(connection))
    rows = [{"job_id": job, "at": at, "type": type, "data": json.dumps(data, sort_keys=True)} for job, type, data in events]
    connection.execute(schema.events.insert(), rows)


def _event(row: sa.Row[Any]) -> Event:
    return Event(seq=row.seq, job_id=row.job_id, at=row.at, type=row.type, data=json.loads(row.data))
