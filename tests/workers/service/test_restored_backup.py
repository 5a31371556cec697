"""A service that is restored from a back-up goes on with the jobs that ran and that waited when it was taken."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path

import psutil
import pytest
from helpers.backups import run_section
from helpers.databases import fresh_postgres_database
from helpers.service_search import MINUTES, TINY, ended_trials, is_whole
from helpers.supervised import REAL, Site

from autoslim.core.result import TrialState
from autoslim.core.urls import default_url
from autoslim.store import QueueState, Store


@dataclasses.dataclass(frozen=True)
class Service:
    """`kind` is that of its database, as the page's headings name it; `restored` is the URL of the database after a restore."""

    kind: str
    root: Path
    backup: Path
    url: str
    restored: str

    def back_up(self) -> None:
        self._run("Back up", self.url)

    def restore(self) -> None:
        self._run("Restore", self.restored)

    def _run(self, what: str, url: str) -> None:
        run_section(f"{what} {self.kind}", root=self.root, backup=self.backup, database=url.replace("+psycopg", ""))


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Service:
    root = tmp_path / "root"
    root.mkdir()
    if request.param == "SQLite":
        url = restored = default_url(root)
    else:
        url, restored = (fresh_postgres_database(request.getfixturevalue("postgres")) for _ in range(2))
    return Service(request.param, root, tmp_path / "backup", url, restored)


@pytest.mark.faults
@pytest.mark.slow
def test_a_restored_back_up_goes_on_with_its_jobs(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Site(service.url, tmp_path, monkeypatch) as site:
        running, waiting = site.submit(), site.submit()
        with site.held_after(1, running, site.supervisor()):
            # Between two of its transactions, so that the copies are of one moment.
            site.freeze(running)
        service.back_up()
        before = site.queue.events()
        assert [site.state(job) for job in (running, waiting)] == [QueueState.SEARCHING, QueueState.QUEUED]
    # The driver has ended with it.
    shutil.rmtree(service.root)
    service.restore()
    with Site(service.restored, tmp_path, monkeypatch) as site:
        assert [site.state(job) for job in (running, waiting)] == [QueueState.SEARCHING, QueueState.QUEUED]
        site.drive(site.supervisor(), site.is_ended(running, waiting))
        found = [site.queue.get(job.id) for job in (running, waiting)]
        assert [job.state for job in found] == [QueueState.SUCCEEDED] * 2
        assert [job.attempt for job in found] == [2, 1]
        assert all(job.result is not None for job in found)
        assert site.queue.events()[: len(before)] == before
        # The first trial had ended, and the second one was held.
        assert site.worked(running) == [(1, 0), (1, 1), (2, 1), (2, 2), (2, 3)]
        assert site.worked(waiting) == [(1, 0), (1, 1), (1, 2), (1, 3)]
        with Store(site.settings.storage) as store:
            for job in (running, waiting):
                results = store.trials(job.id)
                assert [(result.number, result.state) for result in results] == [
                    (number, TrialState.COMPLETE) for number in range(4)
                ]
                assert sorted(ended_trials(site, job)) == [0, 1, 2, 3]


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_search_that_trained_when_it_was_backed_up_ends_in_a_new_root(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(service.url, tmp_path, monkeypatch) as site:
        job = site.submit(**TINY)
        site.drive(site.supervisor(command=REAL), site.has_ended_trials(job, 2), seconds=MINUTES)
        # Driver, Ray and trials stand still while the copies are made, as in a snapshot of the machine, which is then lost.
        site.freeze(job)
        former = [psutil.Process(site.pid(job))]
        former += former[0].children(recursive=True)
        for process in former:
            process.suspend()
        service.back_up()
        events = site.queue.events(job.id, limit=10_000)
        with Store(site.settings.storage) as store:
            finished = [result for result in store.trials(job.id) if result.state is TrialState.COMPLETE]
        for process in former:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    service.root.rename(tmp_path / "lost")
    service.restore()
    with Site(service.restored, tmp_path, monkeypatch) as site:
        site.drive(site.supervisor(command=REAL), site.is_ended(job), seconds=MINUTES)
        found = site.queue.get(job.id)
        assert (found.state, found.attempt) == (QueueState.SUCCEEDED, 2), (found.failure, site.logs())
        assert site.queue.events(job.id, limit=10_000)[: len(events)] == events
        results = is_whole(site, job)
        assert len(finished) >= 2
        assert [result for result in results if result.number in {each.number for each in finished}] == finished
        assert sorted(ended_trials(site, job)) == [result.number for result in results]
        # With `-s`, what docs/service/backup.md shows.
        had = f"{len(finished)} finished trials of {len(results)}, {len(events)} events"
        print(f"backed up: {had}; restored: {found.state}, attempt {found.attempt}")
