"""Databases for tests: SQLite files, and a PostgreSQL server that is started once and gives each test an empty schema."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from loopback.postgres import Postgres, find_binaries

PASSWORD = "canary-Fq8w"
_NUMBERS = itertools.count()
_OTHERS_AT_WORK = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def free_ports(count: int) -> int:
    """The first of so many in a row."""
    while True:
        first = free_port()
        if first + count < 65536 and all(_is_free(port) for port in range(first, first + count)):
            return first


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Skips the test where no server is installed."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    # pytest's own folders are closed to the user that PostgreSQL runs as.
    folder = Path(tempfile.mkdtemp(prefix="autoslim-pg-"))
    server = Postgres(folder, port=free_port(), binaries=binaries)
    try:
        server.start(password=PASSWORD, settings={"fsync": "off", "max_connections": "200"})
        server.create_database("tests", password=PASSWORD)
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def fresh_postgres(server: Postgres) -> str:
    """The URL of an empty schema: it is made in no time, where a database of its own is a thousand files."""
    name = f"test{next(_NUMBERS)}"
    url = server.url("tests", password=PASSWORD)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    engine.dispose()
    return f"{url}?options=-csearch_path%3D{name}"


def fresh_postgres_database(server: Postgres) -> str:
    """The URL of an empty database, for a test that takes all schemas of one."""
    name = f"alone{next(_NUMBERS)}"
    server.create_database(name, password=PASSWORD)
    return server.url(name, password=PASSWORD)


def nobody_writes(url: str) -> bool:
    """Whether no other connection is within a transaction that writes; in PostgreSQL, within any."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.rollback()
        return True
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.execute(sa.text(_OTHERS_AT_WORK)).scalar_one() == 0
