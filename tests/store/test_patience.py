"""A search waits for its database; everybody else is told at once that it cannot be reached."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoslim.core.urls import default_url
from autoslim.errors import UnavailableError
from autoslim.store import Queue, Store, database

LONG = 30.0


@contextlib.contextmanager
def locked(folder: Path, *, seconds: float) -> Iterator[None]:
    """Another process writes for so long."""
    connection = sqlite3.connect(folder / "autoslim.db", isolation_level=None, check_same_thread=False)
    with contextlib.closing(connection):
        connection.execute("BEGIN IMMEDIATE")
        release = threading.Timer(seconds, connection.rollback)
        release.start()
        yield
        release.join()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0)
    monkeypatch.setattr(database, "_RETRY_SECONDS", 0.01)


@pytest.mark.faults
def test_a_transaction_begins_when_the_database_is_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Queue(default_url(tmp_path), patience=LONG) as queue:
        queue.submit("{}", tenant="me")
        with locked(tmp_path, seconds=0.2):
            claim = queue.claim("a driver", 60.0)
        assert claim is not None
        assert [job.attempt for job in queue.list()] == [1]
    (said,) = [record.getMessage() for record in caplog.records if record.name == "autoslim.store.database"]
    assert said.endswith("autoslim.db cannot be reached; waiting for it for 30 s")


@pytest.mark.faults
@pytest.mark.parametrize("patience", [0.0, 0.05])
def test_a_database_that_stays_away_is_reported_when_the_patience_is_over(tmp_path: Path, patience: float) -> None:
    with (
        Queue(default_url(tmp_path), patience=patience) as queue,
        locked(tmp_path, seconds=0.3),
        pytest.raises(UnavailableError, match="database is locked"),
    ):
        queue.submit("{}", tenant="me")


def test_a_database_that_was_never_reached_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would be waited for with this.
    monkeypatch.setattr(database, "_RETRY_SECONDS", 10_000.0)
    with pytest.raises(UnavailableError, match="unable to open"):
        Store(default_url(tmp_path / "nowhere"), patience=LONG)
