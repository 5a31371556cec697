"""Databases for tests: SQLite files, and a PostgreSQL server that is started once and gives each test an empty schema."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from loopback.postgres import Postgres, find_binaries

PASSWORD = "canary-Fq8w"
_NUMBERS = itertools.count()


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
