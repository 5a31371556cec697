"""The one clock of all processes that share a database: the database's own. Dates are ISO 8601 in UTC and sort as text."""

from __future__ import annotations

import datetime

import sqlalchemy as sa


def now(connection: sa.Connection) -> datetime.datetime:
    """A SQLite file's users are on one machine, whose clock it is."""
    if connection.dialect.name == "sqlite":
        return datetime.datetime.now(datetime.UTC)
    moment: datetime.datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return moment.astimezone(datetime.UTC)


def text(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def after(moment: datetime.datetime, seconds: float) -> str:
    return text(moment + datetime.timedelta(seconds=seconds))
