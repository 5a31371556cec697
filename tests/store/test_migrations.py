"""Migrations up and down on both databases, and databases from before there were migrations."""

from __future__ import annotations

import contextlib
import datetime
import json
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from helpers import fresh_stores
from helpers.sample_search import fill, make_job, make_result, make_results

from autoslim.core.result import Origin, Phase, SharedCost
from autoslim.core.run_folder import RunFolder
from autoslim.errors import RequestError, UnavailableError
from autoslim.store import Access, Keys, Queue, Store, migrate, schema
from autoslim.store.database import Database

STORE_0003 = json.loads((Path(__file__).parents[1] / "artifacts" / "store-0003.json").read_text())
"""The rows of a store that version 0.1 wrote, by table."""
ALL = [script.revision for script in migrate.scripts().walk_revisions()][::-1]


def tables(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(sa.inspect(connection).get_table_names())


def at_schema(database: Database, version: int) -> None:
    """Leaves the database as autoslim left it when its schema had this version and there were no migrations."""
    with database.writing() as connection:
        migrate.downgrade(connection, {1: "0001", 2: "0002"}[version])
        connection.execute(sa.text(f"DROP TABLE {schema.VERSION_TABLE}"))
        assert connection.execute(sa.select(schema.schema_version.c.version)).scalar_one() == version
    database.close()


@pytest.fixture(autouse=True)
def _step_by_step(monkeypatch):
    monkeypatch.setattr(migrate, "upgrade", fresh_stores.STEP_BY_STEP)


def test_a_new_store_of_other_tests_is_what_the_migrations_make(tmp_path):
    def dumped(name):
        Database(f"sqlite:///{tmp_path / name}").close()
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as file:
            # What is made anew each time: when the service was opened, and the clock of this boot.
            return [
                line
                for line in file.iterdump()
                if not line.startswith(('INSERT INTO "autoslim_access"', 'INSERT INTO "autoslim_clock"'))
            ]

    migrated = dumped("migrated.db")
    with fresh_stores.made_at_once():
        assert dumped("at-once.db") == migrated


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    database.close()


def test_the_migrations_make_the_tables_that_the_code_uses(database):
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_every_migration_goes_down_and_up_again(database):
    after = {}
    for revision in reversed(ALL):
        after[revision] = tables(database)
        with database.writing() as connection:
            migrate.downgrade(connection, revision)
        assert tables(database) == after[revision], revision
        with database.writing() as connection:
            migrate.downgrade(connection, "base" if revision == ALL[0] else ALL[ALL.index(revision) - 1])
    assert tables(database) == {schema.VERSION_TABLE}
    with database.writing() as connection:
        migrate.upgrade(connection, url=database.url)
        assert migrate.current(connection) == migrate.newest() == ALL[-1]
    assert tables(database) == after[ALL[-1]]


def test_going_down_leaves_the_search_as_it_was(database_url, database):
    with Store(database_url) as store:
        fill(store, make_job())
    with database.writing() as connection:
        migrate.downgrade(connection, "0002")
    with Store(database_url) as store:
        assert store.trials("digits-1") == make_results()


@pytest.mark.parametrize("version", [1, 2])
def test_database_from_before_migrations_is_adopted_with_its_jobs(database_url, database, version):
    with Store(database_url) as store:
        fill(store, make_job())
    at_schema(database, version)
    with Store(database_url) as again:
        assert again.trials("digits-1") == make_results()
        assert again.job("digits-1").shared == ()
        again.add_shared_costs("digits-1", [SharedCost(key="k", method="vit_slim", settings={}, epochs=1.0, seconds=2.0)])
    with Store(database_url) as once_more:
        assert len(once_more.job("digits-1").shared) == 1


@pytest.fixture
def former(database_url, database):
    """A database at migration 0003 with the rows of version 0.1."""
    with database.writing() as connection:
        migrate.downgrade(connection, "0003")
        for table in (table.name for table in schema.metadata.sorted_tables if table.name in STORE_0003):
            columns = sa.table(table, *(sa.column(name) for name in STORE_0003[table][0]))
            connection.execute(columns.insert(), STORE_0003[table])
        if connection.dialect.name == "postgresql":
            # Rows that bring their numbers do not advance what gives the next one.
            last = "(SELECT max(seq) FROM autoslim_events)"
            connection.execute(sa.text(f"SELECT setval(pg_get_serial_sequence('autoslim_events', 'seq'), {last})"))
    database.close()
    return database_url


def test_results_and_epochs_of_version_0_1_are_read_under_todays_names(former):
    with Store(former) as store:
        trials = store.trials("digits-1")
        curves = [[report.phase for report in store.epochs("digits-1", number)] for number in range(6)]
    origins = [Origin.CONTROL, *[Origin.SAMPLER] * 3, Origin.REFINEMENT, Origin.SAMPLER, Origin.REUSED]
    assert [trial.origin for trial in trials] == origins
    assert [trial.accuracy_after_pruning for trial in trials[:2]] == [make_result(n).accuracy_after_pruning for n in (0, 4)]
    assert curves == [[Phase.SHARED, Phase.TRAIN, Phase.PRUNE, Phase.FINETUNE]] * 6


def test_what_version_0_1_stored_counts_as_stored_when_a_trial_repeats_it(former):
    with Store(former) as store:
        trial, epochs = store.trials("digits-1")[4], store.stored_epochs("digits-1", 4)
        store.finish_trial("digits-1", trial)
        for epoch in epochs:
            store.report("digits-1", 4, epoch.report)
        assert [epoch.revision for epoch in store.stored_epochs("digits-1", 4)] == [epoch.revision for epoch in epochs]


def test_events_of_version_0_1_are_told_under_todays_names(former):
    with Queue(former) as queue:
        events = {event.seq: event for event in queue.events()}
    reported = [event.data["phase"] for event in events.values() if event.type == "trial_reported"]
    began = [event.data["origin"] for event in events.values() if event.type == "trial_began"]
    assert (reported, began) == (["prune", "finetune"], ["control", "refinement"])


def test_a_job_that_ran_under_version_0_1_goes_on_with_its_next_attempt(former):
    with Queue(former) as queue:
        (job,) = queue.list()
        assert (job.state, job.attempt) == ("SEARCHING", 1)
        seen = queue.events(job.id)
        # Its driver is of the old version, and was stopped with it.
        queue.expire_lease(job.id, 1)
        claim = queue.claim("supervisor", 60)
        assert (claim.id, claim.attempt) == (job.id, 2)
        assert queue.adopt(job.id, 2, "driver", 60).fence > claim.fence
        assert queue.events(job.id)[: len(seen)] == seen


def test_a_run_folder_of_version_0_1_holds_the_job_that_its_store_has(former, tmp_path):
    (row,) = STORE_0003["autoslim_jobs"]
    folder = RunFolder(tmp_path)
    folder.job_file.write_text(row["spec"])
    with Store(former) as store:
        assert folder.read_job() == store.job(row["id"]).job
        assert [trial.result.number for trial in store.stored_trials(row["id"])] == list(range(7))


@pytest.mark.parametrize(
    ("had", "access"), [("no key", Access.OPEN), ("a revoked key", Access.CLOSED), ("an expired key", Access.CLOSED)]
)
def test_a_store_that_ever_had_a_key_is_closed_when_it_is_migrated(database_url, database, had, access):
    with Keys(database_url) as keys:
        if had != "no key":
            lifetime = datetime.timedelta(milliseconds=1) if had == "an expired key" else None
            key, _ = keys.create(tenant="t", scopes=["read"], name="n", lifetime=lifetime)
            if lifetime is None:
                keys.revoke(key.id)
    with database.writing() as connection:
        migrate.downgrade(connection, "0004")
    with Keys(database_url) as keys:
        assert keys.access() is access


def test_the_names_go_back_to_those_of_version_0_1_and_nothing_else_changes(former, database):
    Store(former).close()
    with database.writing() as connection:
        migrate.downgrade(connection, "0003")
        for table, rows in STORE_0003.items():
            columns = sa.table(table, *(sa.column(name) for name in rows[0]))
            found = [dict(row._mapping) for row in connection.execute(sa.select(*columns.c))]
            assert sorted(map(str, found)) == sorted(map(str, rows)), table


@pytest.mark.parametrize("portion", [1, 2, 5])
def test_a_database_with_more_rows_than_a_portion_is_renamed_whole(former, monkeypatch, portion):
    """Rows are found again by a key of one column (events), of two (trials) and of three (epochs)."""
    migration = migrate.scripts().get_revision("0004").module
    monkeypatch.setattr(migration, "PORTION", portion)
    migrated = Database(former)
    with migrated.reading() as connection:
        texts = {
            column: list(connection.execute(sa.select(column).where(column.is_not(None))).scalars())
            for column in (schema.trials.c.result, schema.epochs.c.report, schema.events.c.data)
        }
    migrated.close()
    assert min(map(len, texts.values())) > portion
    for column, found in texts.items():
        names = [name for text in found for name in json.loads(text)]
        values = [value for text in found for value in json.loads(text).values() if isinstance(value, str)]
        assert not {"beat", "accuracy_after_cut"} & {*names}, column
        assert not {"cut", "tune", "random", "final"} & {*values}, column


def test_database_of_a_newer_autoslim_is_refused(database_url, database):
    with database.writing() as connection:
        connection.execute(sa.text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0999'"))
    with pytest.raises(RequestError, match=r"written by a newer autoslim \(its migration 0999 is unknown here"):
        Store(database_url)


def test_schema_version_that_never_was_is_refused(database_url, database):
    at_schema(database, 2)
    with database.writing() as connection:
        connection.execute(schema.schema_version.update().values(version=7))
    with pytest.raises(RequestError, match=r"written by a newer autoslim \(its schema is 7\)"):
        Store(database_url)


def test_autoslim_from_before_migrations_is_told_that_the_database_is_newer(database):
    with database.reading() as connection:
        assert connection.execute(sa.select(schema.schema_version.c.version)).scalar_one() > 2


def test_a_migration_that_fails_leaves_the_database_as_it_was(database_url, database):
    at_schema(database, 1)
    with database.writing() as connection:
        connection.execute(sa.text("CREATE TABLE autoslim_keys (id INTEGER)"))
    with pytest.raises((sa.exc.DBAPIError, UnavailableError), match="autoslim_keys"), database.writing() as connection:
        migrate.upgrade(connection, url=database.url)
    assert "autoslim_queue" not in tables(database)
    assert schema.VERSION_TABLE not in tables(database)
    with database.reading() as connection:
        assert connection.execute(sa.select(schema.schema_version.c.version)).scalar_one() == 1


def test_many_who_open_an_empty_database_at_once_all_find_its_tables(database_url):
    together, failures = threading.Barrier(8), []

    def open_it():
        try:
            together.wait()
            with Store(database_url) as store:
                store.jobs()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_opening_waits_for_another_connection_that_holds_a_new_database(tmp_path):
    file = tmp_path / "autoslim.db"
    first = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    # Not in WAL mode yet, and locked: SQLite refuses the change at once.
    first.execute("BEGIN EXCLUSIVE")
    with (
        pytest.raises(sqlite3.OperationalError, match="locked"),
        contextlib.closing(sqlite3.connect(file, timeout=0.1)) as second,
    ):
        second.execute("PRAGMA journal_mode = WAL")
    releasing = threading.Timer(0.3, lambda: first.execute("COMMIT"))
    releasing.start()
    with Store(f"sqlite:///{file}") as store:
        assert store.jobs() == []
    releasing.join()
    first.close()


def test_the_migrations_are_one_line_in_the_order_of_their_numbers():
    assert sorted(ALL) == ALL
    assert migrate.scripts().get_heads() == [ALL[-1]]
