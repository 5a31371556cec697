"""The root folder and the database of a service of version 0.1, which was lost while one of its jobs ran and another one waited.

They are kept as that version wrote them, but without what can be made again (the prepared images, results that trials share, MLflow's
files). The root was at another path, which does not exist, and on another machine.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.service_search import MINUTES, ended_trials
from helpers.supervised import REAL, Site, supervisor_process

import autoslim
from autoslim.core.result import Phase, TrialState
from autoslim.core.urls import default_url
from autoslim.store import JobState, QueuedJob, QueueState, Store

ARTIFACT = Path(__file__).parents[2] / "artifacts" / "root-0.1"
FORMER = Path("/former/root")


def revision(root: Path) -> str:
    """Of the database, which is not opened by autoslim for it."""
    with contextlib.closing(sqlite3.connect(root / "autoslim.db")) as file:
        return file.execute("SELECT version_num FROM autoslim_alembic").fetchone()[0]


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_the_jobs_of_a_former_version_continue_where_it_left_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(shutil.copytree(ARTIFACT, tmp_path / "root"))
    assert revision(root) == "0003"
    with Site(default_url(root), tmp_path, monkeypatch) as site:
        jobs = {job.name: job for job in site.queue.list()}
        running, waiting = jobs["running"], jobs["waiting"]
        assert (running.state, running.attempt, waiting.state) == (QueueState.SEARCHING, 1, QueueState.QUEUED)
        events = site.queue.events(limit=10_000)
        with Store(site.settings.storage) as store:
            former, reports = store.trials(running.id), reported(store, running, 2)
        assert [trial.state for trial in former] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]

        with supervisor_process(site, REAL):
            site.drive(None, site.is_ended(running, waiting), seconds=MINUTES)
        ends_with_its_model(site, running, attempt=2, trials=4, label="70%")
        ends_with_its_model(site, waiting, attempt=1, trials=2, label="60%")
        assert site.queue.events(limit=10_000)[: len(events)] == events
        with Store(site.settings.storage) as store:
            assert store.trials(running.id)[:2] == former[:2]
            assert [trial.attempt for trial in store.stored_trials(running.id)] == [1, 1, 2, 2]
            # Speeds among them, which the checkpoint has: no epoch of the interrupted trial was trained again.
            assert reported(store, running, 2)[: len(reports)] == reports
        assert not FORMER.exists()


def reported(store: Store, job: QueuedJob, trial: int) -> list[tuple[float, Phase, Mapping[str, float]]]:
    reports = [epoch.report for epoch in store.stored_epochs(job.id, trial)]
    return [(report.epoch, report.phase, report.metrics) for report in reports]


def ends_with_its_model(site: Site, job: QueuedJob, *, attempt: int, trials: int, label: str) -> None:
    found, folder = site.queue.get(job.id), site.settings.folder(job.id)
    assert (found.state, found.attempt) == (QueueState.SUCCEEDED, attempt), (found.failure, site.logs())
    with Store(site.settings.storage) as store:
        assert store.job(job.id).state is JobState.COMPLETE
        assert store.job(job.id).job.output == str(folder)
        results = store.trials(job.id)
    assert [result.number for result in results] == list(range(trials))
    assert all(result.state is not TrialState.RUNNING for result in results)
    assert sorted(ended_trials(site, job)) == list(range(trials))
    assert found.result is not None
    (model,) = json.loads(found.result)["models"]
    assert model["label"] == label
    assert autoslim.load_config(folder / model["folder"]).flops.fvcore <= model["budget"]
    assert {path.name for path in (folder / "logs").glob("*.log")} == {f"attempt-{number + 1}.log" for number in range(attempt)}
