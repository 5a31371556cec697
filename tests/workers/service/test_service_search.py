"""Submitted jobs with real searches on the digits, whose drivers and supervisors are killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from helpers.databases import PASSWORD, fresh_postgres
from helpers.service_search import MINUTES, TINY, ended_trials, is_whole, leaks
from helpers.supervised import REAL, Site, supervisor_process

import autoslim
from autoslim.core.result import TrialState
from autoslim.core.urls import default_url
from autoslim.store import JobState, QueueState, Store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

S = QueueState


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request, tmp_path, monkeypatch):
    url = default_url(tmp_path) if request.param == "sqlite" else fresh_postgres(request.getfixturevalue("postgres"))
    with Site(url, tmp_path, monkeypatch) as site:
        yield site


def test_a_job_whose_supervisor_and_then_whose_driver_is_killed_ends_with_its_models(site):
    job = site.submit(**TINY, name="digits")
    with supervisor_process(site, REAL) as first:
        site.drive(None, site.has_ended_trials(job, 1), seconds=MINUTES)
        first.kill()
        first.wait()
    finished = ended_trials(site, job)
    with supervisor_process(site, REAL) as second:
        # The driver did not notice; nor is there a second one.
        site.drive(None, site.has_ended_trials(job, 2), seconds=MINUTES)
        assert site.queue.get(job.id).attempt == 1
        site.kill(job)
        site.drive(None, site.is_ended(job), seconds=MINUTES)
        assert second.poll() is None
    found = site.queue.get(job.id)
    assert (found.state, found.attempt) == (S.SUCCEEDED, 2), (found.failure, site.logs())
    results = is_whole(site, job)
    ended = ended_trials(site, job)
    assert len(ended) == len(set(ended)) == len(results)
    assert set(finished) <= set(ended)

    result = json.loads(found.result)
    assert {model["label"] for model in result["models"]} == {"50%", "70%"}
    folder = site.settings.folder(job.id)
    for model in result["models"]:
        assert autoslim.load_config(folder / model["folder"]).flops.fvcore <= model["budget"]
    assert {path.name for path in (folder / "logs").glob("*.log")} == {"attempt-1.log", "attempt-2.log"}
    assert "and the dense one on " in site.settings.log(job.id, 2).read_text()
    assert not leaks(site.settings.root, PASSWORD)


def test_cancelling_a_running_search_ends_it_and_all_its_processes(tmp_path, monkeypatch):
    with Site(default_url(tmp_path), tmp_path, monkeypatch) as site:
        job = site.submit(**{**TINY, "trials": 200, "epochs": 20.0})
        with supervisor_process(site, REAL):
            site.drive(None, site.has_ended_trials(job, 1), seconds=MINUTES)
            driver = site.pid(job)
            site.queue.request_cancel(job.id)
            site.drive(None, site.is_ended(job), seconds=45)
            assert site.state(job) is S.CANCELLED
            site.drive(None, lambda: not (site.settings.root / "drivers" / f"{job.id}-a1.json").exists())
            assert not Path(f"/proc/{driver}").exists()
        with Store(site.settings.storage) as store:
            assert store.job(job.id).state is JobState.STOPPED
            assert any(result.state is TrialState.COMPLETE for result in store.trials(job.id))


def test_stopping_the_service_and_starting_it_again_costs_no_finished_trial(tmp_path, monkeypatch):
    with Site(default_url(tmp_path), tmp_path, monkeypatch) as site:
        job = site.submit(**TINY)
        with supervisor_process(site, REAL) as first:
            site.drive(None, site.has_ended_trials(job, 1), seconds=MINUTES)
            first.send_signal(signal.SIGTERM)
            assert first.wait(60) == 0
            site.drive(None, lambda: site.state(job) is S.QUEUED, seconds=60)
        before = ended_trials(site, job)
        with supervisor_process(site, REAL):
            site.drive(None, site.is_ended(job), seconds=MINUTES)
        assert site.state(job) is S.SUCCEEDED, site.logs()
        results = is_whole(site, job)
        assert ended_trials(site, job)[: len(before)] == before
        assert len(ended_trials(site, job)) == len(results)
