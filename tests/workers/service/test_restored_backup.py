"""A service that is restored from a back-up goes on with the jobs that ran and that waited when it was taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.backups import run_section
from helpers.supervised import Site

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
        site.drive(site.supervisor(), site.has_ended_trials(running, 1))
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
