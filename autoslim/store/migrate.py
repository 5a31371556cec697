"""Brings a database to the newest schema by Alembic's migrations, and adopts those written before there were any.

Everything happens within the caller's one transaction: a migration that fails leaves the database as it was.
"""

from __future__ import annotations

import functools
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from autoslim.errors import RequestError
from autoslim.store import schema

_ADOPTED = {1: "0001", 2: "0002"}
"""The migration after which a database equals one of this schema version."""

# The bytes of "autoslim", which other programs in the same database are unlikely to use.
_LOCK = 0x6175746F736C696D
"""The number of the PostgreSQL advisory lock that lets one process migrate at a time."""


def newest() -> str:
    """The last migration there is."""
    revision = scripts().get_current_head()
    assert revision is not None
    return revision


def current(connection: sa.Connection) -> str | None:
    """The last migration this database has seen; None where it has seen none."""
    if not sa.inspect(connection).has_table(schema.VERSION_TABLE):
        return None
    table = sa.table(schema.VERSION_TABLE, sa.column("version_num", sa.String))
    revision: str | None = connection.execute(sa.select(table.c.version_num)).scalar()
    return revision


def upgrade(connection: sa.Connection, *, url: str) -> None:
    """`url` is for messages.

    Raises:
        RequestError: when a newer autoslim has written this database.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    # Read under the lock: another process may just have migrated.
    now = current(connection) or _adopt(connection, url)
    if now == newest():
        return
    # A revision that is unknown here was made by a newer version, whose tables this one cannot use.
    if now is not None and now not in {script.revision for script in scripts().walk_revisions()}:
        raise _newer(url, f"its migration {now} is unknown here, the newest known is {newest()}")
    command.upgrade(_config(connection), "head")


def downgrade(connection: sa.Connection, revision: str) -> None:
    """Back to `revision`, or `base` for no tables at all; the contents of later migrations' tables are lost."""
    command.downgrade(_config(connection), revision)


def _adopt(connection: sa.Connection, url: str) -> str | None:
    """Stamps a database from before there were migrations; None where there is nothing of ours yet."""
    if not sa.inspect(connection).has_table(schema.schema_version.name):
        return None
    version: int = connection.execute(sa.select(schema.schema_version.c.version)).scalar_one()
    if version not in _ADOPTED:
        raise _newer(url, f"its schema is {version}")
    MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE}).stamp(scripts(), _ADOPTED[version])
    return _ADOPTED[version]


def _newer(url: str, how: str) -> RequestError:
    return RequestError(
        f"the database {url} was written by a newer autoslim ({how}); upgrade autoslim, or choose another storage"
    )


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    # Alembic interpolates percent signs, which a folder's name may hold.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@functools.cache
def scripts() -> ScriptDirectory:
    """The migrations there are."""
    return ScriptDirectory.from_config(_config())
