"""A test's new SQLite store gets its tables by what the migrations leave in an empty one, without running each of them again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from autoslim.store import migrate

STEP_BY_STEP = migrate.upgrade


@functools.cache
def _statements() -> tuple[str, ...]:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        STEP_BY_STEP(connection, url="")
        dumped = tuple(connection.connection.driver_connection.iterdump())
    engine.dispose()
    return tuple(statement for statement in dumped if statement not in ("BEGIN TRANSACTION;", "COMMIT;"))


def _upgrade(connection: sa.Connection, *, url: str) -> None:
    if connection.dialect.name != "sqlite" or sa.inspect(connection).get_table_names():
        STEP_BY_STEP(connection, url=url)
        return
    for statement in _statements():
        connection.exec_driver_sql(statement)


@contextlib.contextmanager
def made_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "upgrade", _upgrade)
        yield
