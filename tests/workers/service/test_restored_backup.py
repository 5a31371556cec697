"""A service that is restored from a back-up goes on with the jobs that ran and that waited when it was taken."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import psutil
import pytest
from helpers.backups import run_section
from helpers.service_search import MINUTES, TINY, ended_trials, is_whole
from helpers.supervised import REAL, Site

from autoslim.core.result import TrialState
from autoslim.core.urls import default_url
from autoslim.store import Queue, QueueState, Store


@pytest.mark.faults
@pytest.mark.slow
def test_a_restored_back_up_goes_on_with_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, backup = tmp_path / "root", tmp_path / "backup"
    root.mkdir()
    with Site(default_url(root), tmp_path, monkeypatch) as site:
        running, waiting = site.submit(), site.submit()
        with site.held_after(1, running, site.supervisor()):
            # Between two of its transactions, so that the copies are of one moment.
            site.freeze(running)
        run_section("Back up SQLite", root=root, backup=backup)
        before = site.queue.events()
        assert site.state(running) is QueueState.SEARCHING
        site.kill(running)
        site.queue.close()
        shutil.rmtree(root)
        run_section("Restore SQLite", root=root, backup=backup)
        site.queue = Queue(site.settings.storage)
        site.drive(site.supervisor(), site.is_ended(running, waiting))
        assert [site.state(job) for job in (running, waiting)] == [QueueState.SUCCEEDED] * 2
        assert [site.queue.get(job.id).attempt for job in (running, waiting)] == [2, 1]
        assert site.queue.events()[: len(before)] == before
        with Store(site.settings.storage) as store:
            for job in (running, waiting):
                results = store.trials(job.id)
                assert [result.state for result in results] == [TrialState.COMPLETE] * 4
                ended = [event.data["trial"] for event in site.queue.events(job.id) if event.type == "trial_ended"]
                assert sorted(ended) == [result.number for result in results]


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_search_that_trained_when_it_was_backed_up_ends_in_a_new_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, backup = tmp_path / "root", tmp_path / "backup"
    root.mkdir()
    with Site(default_url(root), tmp_path, monkeypatch) as site:
        job = site.submit(**TINY)
        site.drive(site.supervisor(command=REAL), site.has_ended_trials(job, 2), seconds=MINUTES)
        # Driver, Ray and trials stand still while the copies are made, as in a snapshot of the machine, which is then lost.
        site.freeze(job)
        former = [psutil.Process(site.pid(job))]
        former += former[0].children(recursive=True)
        for process in former:
            process.suspend()
        run_section("Back up SQLite", root=root, backup=backup)
        events = site.queue.events(job.id, limit=10_000)
        with Store(site.settings.storage) as store:
            finished = [result for result in store.trials(job.id) if result.state is TrialState.COMPLETE]
        site.queue.close()
        for process in former:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        root.rename(tmp_path / "lost")

        run_section("Restore SQLite", root=root, backup=backup)
        site.queue = Queue(site.settings.storage)
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
