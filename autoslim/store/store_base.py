"""What every part of the store needs: the database, and a job's row in it."""

from __future__ import annotations

from typing import Any, Self

import sqlalchemy as sa

from autoslim.errors import RequestError
from autoslim.store import schema
from autoslim.store.database import Database, Guard


class StoreBase:
    """Part of `Store`."""

    def __init__(self, url: str, *, patience: float = 0.0, guard: Guard | None = None) -> None:
        """Creates the tables where there are none. `patience` is how many seconds each call waits for a database that has gone away, and
        `guard` is called in the transaction of each change: `autoslim.store.guard` makes one.

        Raises:
            RequestError: for a URL that cannot be used, or a database that a newer autoslim has written.
        """
        self._database = Database(url, patience=patience, guard=guard)
        self.url = self._database.url

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _job_row(self, connection: sa.Connection, job_id: str) -> sa.Row[Any]:
        row = connection.execute(sa.select(schema.jobs).where(schema.jobs.c.id == job_id)).one_or_none()
        if row is None:
            newest = sa.select(schema.jobs.c.id).order_by(schema.jobs.c.created_at.desc()).limit(10)
            ids = ", ".join(connection.execute(newest).scalars())
            raise RequestError(f"there is no job {job_id!r} in {self.url}; there are: {ids or 'none'}")
        return row
