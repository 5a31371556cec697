"""Which runs elsewhere, such as MLflow's, mirror a job and its trials, and what was logged to them."""

from __future__ import annotations

import json

import sqlalchemy as sa

from autoslim.store import schema
from autoslim.store.rows import TrackedRun
from autoslim.store.store_base import StoreBase


class TrackedRuns(StoreBase):
    """Part of `Store`."""

    def tracked(self, job_id: str, destination: str) -> dict[str, TrackedRun]:
        """The runs at `destination` (up to 16 characters, the mirror's choice), by entity."""
        table = schema.tracking.c
        query = sa.select(schema.tracking).where(table.job_id == job_id, table.destination == destination)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return {row.entity: TrackedRun(entity=row.entity, run_id=row.run_id, logged=json.loads(row.logged)) for row in rows}

    def set_tracked(self, job_id: str, destination: str, run: TrackedRun) -> None:
        table = schema.tracking.c
        values = {"run_id": run.run_id, "logged": json.dumps(run.logged, sort_keys=True)}
        here = sa.and_(table.job_id == job_id, table.destination == destination, table.entity == run.entity)
        with self._database.writing() as connection:
            self._job_row(connection, job_id)
            # Not an upsert, which databases spell differently.
            if connection.execute(schema.tracking.update().where(here).values(**values)).rowcount == 0:
                values |= {"job_id": job_id, "destination": destination, "entity": run.entity}
                connection.execute(schema.tracking.insert().values(**values))

    def forget_tracked(self, job_id: str, destination: str) -> None:
        """For a destination that has lost its runs: everything is logged again."""
        table = schema.tracking.c
        with self._database.writing() as connection:
            connection.execute(schema.tracking.delete().where(table.job_id == job_id, table.destination == destination))
