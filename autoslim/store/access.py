"""Whether the service is open to callers without a key. Kept in the database, so that it outlives every key."""

from __future__ import annotations

import enum

import sqlalchemy as sa

from autoslim.store import clock, schema

_A = schema.access.c
# The table has one row.
_ROW = 1


class Access(enum.StrEnum):
    """`open`: a request may have no key. `closed`: every request needs one."""

    OPEN = "open"
    CLOSED = "closed"


def read(connection: sa.Connection, *, lock: bool = False) -> Access:
    """`lock` keeps others from changing it until the transaction ends."""
    query = sa.select(_A.state).where(_A.id == _ROW)
    # SQLite locks the whole database for a writing transaction and ignores FOR UPDATE.
    state = connection.execute(query.with_for_update() if lock else query).scalar()
    # A row that is missing or unknown must not open the service.
    return Access.OPEN if state == Access.OPEN else Access.CLOSED


def write(connection: sa.Connection, state: Access) -> None:
    changed = {"state": state.value, "changed_at": clock.text(clock.now(connection))}
    connection.execute(schema.access.update().where(_A.id == _ROW, _A.state != state.value).values(**changed))
