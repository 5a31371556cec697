"""`Database`: transactions on any database SQLAlchemy can reach, with its errors as the project's own."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from autoslim.core.urls import hide_password
from autoslim.errors import AutoslimError, RequestError, UnavailableError
from autoslim.store import clock, migrate, schema

_log = logging.getLogger(__name__)

Guard = Callable[[sa.Connection], None]
"""Called in each writing transaction before anything is written; what it raises undoes the transaction."""

PATIENCE_SECONDS = 40.0
"""For a search: a database that is restarted is back by then, and a driver of the service keeps its job (its lease has 60 s by default)."""

# Between two tries to begin a transaction.
_RETRY_SECONDS = 0.5
# The largest body of a request, so that one of them still fits.
_PROBE_BYTES = 2**20
# Seconds that SQLite waits for another writer.
_BUSY_SECONDS = 30
# Seconds after which PostgreSQL ends a transaction whose process does nothing in it: one that was stopped, or cut off. It would keep its
# locks, and the job would never get another driver. Shorter than a lease (60 s by default), and far longer than any pause between two
# statements.
_IDLE_SECONDS = 30
# Parameters of libpq for a PostgreSQL that goes silent: packets are lost, and nothing is refused. TCP alone would wait for a quarter of an
# hour, and for ever where it only reads. A transaction that finds its connection dead and no new one has failed after 8 s and 4 s: the
# API answers 503 within 15 s, a search tries again several times in its patience (40 s), and a driver in its lease (60 s by default).
# Longer than TCP needs to send a lost packet several times again.
_SILENCE = {
    # Seconds for each address of the server, login included.
    "connect_timeout": 4,
    # Milliseconds for what was sent to be received.
    "tcp_user_timeout": 8000,
    # Where the server has received a statement and is silent since: asked after 4 s, and then every 2 s, twice.
    "keepalives": 1,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}
# Those of SQLAlchemy's drivers that pass them on to libpq.
_LIBPQ_DRIVERS = ("psycopg", "psycopg2")


class Database:
    """Opens the database and brings its tables up to date; `url` shows no password, `writes` counts this object's writing transactions.

    `patience` is how many seconds a transaction waits for a database that cannot be reached any more.
    """

    def __init__(self, url: str, *, patience: float = 0.0, guard: Guard | None = None) -> None:
        self.url, self.writes = hide_password(url), 0
        # None before the tables are there that it reads.
        self._guard: Guard | None = None
        # None before it was opened once: a mistaken address is reported at once.
        self._patience = 0.0
        self._engine = _open_engine(url)
        self._writer = self._engine.execution_options(writes=True)
        try:
            self._prepare()
        except AutoslimError:
            self.close()
            raise
        self._patience, self._guard = patience, guard

    def close(self) -> None:
        self._engine.dispose()

    def reading(self) -> contextlib.AbstractContextManager[sa.Connection]:
        return self._transaction(self._engine)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        with self._transaction(self._writer) as connection:
            if self._guard is not None:
                self._guard(connection)
            yield connection
        self.writes += 1

    def check_writable(self) -> None:
        """Writes without changing anything. Raises UnavailableError when a transaction of usual size could not be stored."""
        with self.writing() as connection:
            connection.execute(schema.access.update().values(id=schema.access.c.id))
        if self._engine.dialect.name == "sqlite":
            # SQLite may have room left in a file that it has reserved before, while the disk is full.
            try:
                with tempfile.TemporaryFile(dir=Path(str(self._engine.url.database)).absolute().parent) as probe:
                    probe.write(bytes(_PROBE_BYTES))
            except OSError as error:
                raise UnavailableError(f"the database {self.url} cannot be written: {error.strerror}") from error

    @contextlib.contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with contextlib.ExitStack() as transaction:
                yield self._begin(engine, transaction)
        except (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError):
            raise
        except (sa.exc.DatabaseError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            reason = hide_password(str(getattr(error, "orig", None) or error)).strip()
            # A driver's own error may quote the address with its password, so it is not chained.
            raise UnavailableError(f"the database {self.url} cannot be reached: {reason}") from None

    def _begin(self, engine: sa.Engine, transaction: contextlib.ExitStack) -> sa.Connection:
        """Tries again for as long as the patience lasts: nothing of the transaction has been done yet."""
        began, told = time.monotonic(), False
        while True:
            try:
                return transaction.enter_context(engine.begin())
            except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError):
                if time.monotonic() - began >= self._patience:
                    raise
            if not told:
                _log.warning("the database %s cannot be reached; waiting for it for %g s", self.url, self._patience)
                told = True
            time.sleep(_RETRY_SECONDS)

    def _prepare(self) -> None:
        with self.reading() as connection:
            if migrate.current(connection) == migrate.newest() and clock.steady_is_anchored(connection):
                return
        with self.writing() as connection:
            migrate.upgrade(connection, url=self.url)
            clock.anchor(connection)


def _open_engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise RequestError(f"storage {url!r} lives in memory and would be lost; name a file, as sqlite:////data/autoslim.db")
        pre_ping = parsed.get_backend_name() != "sqlite"
        engine = sa.create_engine(parsed, pool_pre_ping=pre_ping, connect_args=_silence_limits(parsed))
    except (sa.exc.ArgumentError, ValueError, ModuleNotFoundError) as error:
        if isinstance(error, RequestError):
            raise
        # The cause may quote the URL with its password, so that only its text is kept.
        raise RequestError(f"storage {hide_password(url)!r} cannot be used: {hide_password(str(error))}") from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    elif engine.dialect.name == "postgresql":
        sa.event.listen(engine, "connect", _prepare_postgres)
    return engine


def _silence_limits(url: sa.URL) -> dict[str, int]:
    """What the URL says of them itself is left to it."""
    if url.get_backend_name() != "postgresql" or url.get_driver_name() not in _LIBPQ_DRIVERS:
        return {}
    return {name: value for name, value in _SILENCE.items() if name not in url.query}


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Without an isolation level the driver begins nothing by itself, and `_begin_sqlite` decides.
    connection.isolation_level = None
    # NORMAL with WAL: a power cut may undo the last transactions, no more; trials then resume from checkpoints.
    for pragma in (f"busy_timeout = {_BUSY_SECONDS * 1000}", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    _use_wal(connection)


def _prepare_postgres(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
    connection.commit()


def _use_wal(connection: Any) -> None:
    """Waits here, because SQLite does not: the change to WAL fails at once, busy timeout or not, while another connection makes it."""
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and then writes is refused at once, busy timeout or not, if another wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
