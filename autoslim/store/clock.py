"""The clocks of all processes that share a database. Dates are ISO 8601 in UTC and sort as text.

`now` is the time of day, for people. `steady` is what leases and pauses are counted in. The users of a SQLite file are on one machine;
their steady clock is the time since its boot, from a moment that the file records, and nobody sets it. In PostgreSQL both are the server's
time of day, the one clock that all machines share: the clocks of the service's machines do not matter, but the server's may be set. Who
looks for leases that are over notices that by the time since its own machine's boot (`Instant.was_set_since`), and lets them begin anew.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import time

import sqlalchemy as sa

from autoslim.core.pid_namespace import pid_namespace
from autoslim.store import schema

_clock = schema.clock.c

STEP_SECONDS = 1.0
"""By which the steady clock must have been set to be noticed: far less than any lease has left while it is renewed, and far more than two
clocks that are kept right, each by small corrections, move apart between two looks."""


@dataclasses.dataclass(frozen=True)
class Instant:
    """The same moment on both clocks; `uptimes` are this machine's before and after the database told its time."""

    now: datetime.datetime
    steady: datetime.datetime
    uptimes: tuple[float, float]

    @property
    def text(self) -> str:
        """The time of day."""
        return text(self.now)

    def steady_text(self, offset_seconds: float = 0.0) -> str:
        """The steady clock's time, `offset_seconds` after this moment (negative: before it)."""
        return text(self.steady, offset_seconds=offset_seconds)

    def was_set_since(self, earlier: Instant) -> bool:
        """Whether somebody has set the steady clock in between, as far as this machine's tells; also where a virtual machine stood
        still, and its own clock with it."""
        advanced = (self.steady - earlier.steady).total_seconds()
        least, most = self.uptimes[0] - earlier.uptimes[1], self.uptimes[1] - earlier.uptimes[0]
        return not least - STEP_SECONDS <= advanced <= most + STEP_SECONDS


def instant(connection: sa.Connection) -> Instant:
    before = uptime()
    moment = steady(connection)
    uptimes = (before, uptime())
    return Instant(wall_clock() if connection.dialect.name == "sqlite" else moment, moment, uptimes)


def now(connection: sa.Connection) -> datetime.datetime:
    return wall_clock() if connection.dialect.name == "sqlite" else _server(connection)


def steady(connection: sa.Connection) -> datetime.datetime:
    """In SQLite it advances a second a second, also where the time of day is set back or forth; in PostgreSQL it is the server's clock."""
    if connection.dialect.name != "sqlite":
        return _server(connection)
    zero = connection.execute(sa.select(_clock.zero).where(_clock.boot == _boot())).scalar_one_or_none()
    # None where the file came from another machine while it was open.
    return wall_clock() if zero is None else _moment(zero + uptime())


def anchor(connection: sa.Connection) -> None:
    """Records where the steady clock of this boot starts: at the time of day, or later if what the file says was later.

    After a boot of the machine, leases and pauses of the former one are over: none of their holders lives.
    """
    if connection.dialect.name != "sqlite" or steady_is_anchored(connection):
        return
    # The time of day, and the steady clock of the former boot, which may be ahead of it.
    columns = [schema.queue.c.updated_at, schema.queue.c.renewed_at]
    same_boot = sa.select(_clock.boot).where(_clock.boot.startswith(_boot().partition("/")[0], autoescape=True))
    if connection.execute(same_boot).first() is None:
        # Not where another time namespace of this boot has the file open: its drivers live.
        columns += [schema.queue.c.lease_until, schema.queue.c.not_before]
    latest = connection.execute(sa.select(*map(sa.func.max, columns))).one()
    begun = max([wall_clock(), *(datetime.datetime.fromisoformat(moment) for moment in latest if moment)])
    connection.execute(schema.clock.insert().values(boot=_boot(), zero=begun.timestamp() - uptime()))


def steady_is_anchored(connection: sa.Connection) -> bool:
    query = sa.select(_clock.boot).where(_clock.boot == _boot())
    return connection.dialect.name != "sqlite" or connection.execute(query).one_or_none() is not None


def wall_clock() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def uptime() -> float:
    """Seconds since the boot, the same for all processes; on Linux those in which the machine slept count, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@functools.cache
def _boot() -> str:
    """Identifies what `uptime` counts from: the boot and the time namespace. A system without /proc has one clock."""
    boot = pid_namespace().partition("/")[0]
    try:
        return f"{boot}/{os.stat('/proc/self/ns/time').st_ino}"
    except OSError:
        return boot


def _server(connection: sa.Connection) -> datetime.datetime:
    moment: datetime.datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return moment.astimezone(datetime.UTC)


def _moment(timestamp: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC)


def text(moment: datetime.datetime, *, offset_seconds: float = 0.0) -> str:
    """`offset_seconds` after `moment` (negative: before it), as it is stored."""
    return (moment + datetime.timedelta(seconds=offset_seconds)).isoformat(timespec="milliseconds")
