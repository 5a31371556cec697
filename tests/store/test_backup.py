"""A database that was backed up and restored by the documents' commands has everything, and its jobs go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from helpers.backups import run_section
from helpers.databases import PASSWORD
from helpers.sample_search import fill, make_job, make_results
from loopback.postgres import Postgres

from autoslim.core.urls import default_url
from autoslim.errors import RequestError
from autoslim.store import Access, Keys, Queue, QueueState, Store, schema
from autoslim.store.database import Database


def put_jobs(url: str) -> tuple[str, str, str]:
    """The ids of a job that has ended, one that is running with twelve trials, and one that waits."""
    with Queue(url) as queue:
        ended, running, waiting = (queue.submit("{}", tenant="me", idempotency_key=key)[0].id for key in "abc")
        queue.request_cancel(ended)
        claim = queue.claim("supervisor", 600)
        assert claim is not None and claim.id == running
        queue.transition(queue.adopt(running, claim.attempt, "driver", 600), QueueState.SEARCHING)
    with Store(url) as store:
        fill(store, make_job(id=running))
    return ended, running, waiting


def rows(url: str) -> dict[str, list[str]]:
    """Of all tables."""
    database = Database(url)
    try:
        with database.reading() as connection:
            return {
                table.name: sorted(str(row) for row in connection.execute(sa.select(table)))
                for table in schema.metadata.sorted_tables
            }
    finally:
        database.close()


def goes_on(url: str, ended: str, running: str, waiting: str) -> None:
    with Store(url) as store:
        assert store.trials(running) == make_results()
    with Keys(url) as keys:
        assert (keys.access(), keys.count_usable()) == (Access.CLOSED, 1)
    with Queue(url) as queue:
        assert queue.get(ended).state is QueueState.CANCELLED
        last = max(event.seq for event in queue.events())
        claim = queue.claim("the next supervisor", 600)
        assert claim is not None and (claim.id, claim.attempt) == (waiting, 1)
        # As the supervisor does when it finds the driver's process gone; else the lease ends.
        queue.expire_lease(running, 1)
        claim = queue.claim("the next supervisor", 600)
        assert claim is not None and (claim.id, claim.attempt) == (running, 2)
        assert min(event.seq for event in queue.events() if event.seq > last) == last + 1
        with pytest.raises(RequestError, match="only an ended job"):
            queue.purge(running)
        # The same request under the same key is the same job, as before.
        assert queue.submit("{}", tenant="me", idempotency_key="c")[0].id == waiting


def test_a_database_in_sqlite_is_restored_whole_from_a_back_up_of_while_it_was_written_to(tmp_path: Path) -> None:
    root, backup, url = tmp_path / "root", tmp_path / "backup", default_url(tmp_path / "root")
    root.mkdir(mode=0o700)
    (root / "jobs" / "ID" / "logs").mkdir(parents=True)
    (root / "jobs" / "ID" / "logs" / "attempt-1.log").write_text("a line\n")
    ids = put_jobs(url)
    with Keys(url) as writer:
        writer.create(tenant="me", scopes=["read"], name="mine")
        before = rows(url)
        # What was written last is in the write-ahead log, and not in the file.
        assert (root / "autoslim.db-wal").stat().st_size > 0
        run_section("Back up SQLite", root=root, backup=backup)
        writer.create(tenant="me", scopes=["read"], name="later")
    root.rename(tmp_path / "lost")
    run_section("Restore SQLite", root=root, backup=backup)
    assert rows(url) == before
    assert (root / "jobs" / "ID" / "logs" / "attempt-1.log").read_text() == "a line\n"
    assert {path.stat().st_mode & 0o077 for path in (root, *root.glob("autoslim.db*"))} == {0}
    goes_on(url, *ids)


def test_a_root_without_a_database_is_no_back_up(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(AssertionError):
        run_section("Back up SQLite", root=tmp_path / "root", backup=tmp_path / "backup")
    assert list((tmp_path / "root").iterdir()) == list((tmp_path / "backup").iterdir()) == []


@pytest.mark.slow
def test_a_database_in_postgresql_is_restored_whole(tmp_path: Path, postgres: Postgres) -> None:
    urls = {}
    for name in ("backed_up", "restored"):
        postgres.create_database(name, password=PASSWORD)
        urls[name] = postgres.url(name, password=PASSWORD)
    (tmp_path / "root").mkdir()
    ids, plain = put_jobs(urls["backed_up"]), {name: url.replace("+psycopg", "") for name, url in urls.items()}
    with Keys(urls["backed_up"]) as keys:
        keys.create(tenant="me", scopes=["read"], name="mine")
    before = rows(urls["backed_up"])
    folders = {"root": tmp_path / "root", "backup": tmp_path / "backup"}
    run_section("Back up PostgreSQL", **folders, database=plain["backed_up"])
    run_section("Restore PostgreSQL", **folders, database=plain["restored"])
    assert rows(urls["restored"]) == before
    goes_on(urls["restored"], *ids)
