"""The supervisor with real processes as drivers, whose search is a trivial one."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import sys
import time

import pytest
from helpers.databases import PASSWORD, fresh_postgres, postgres_server
from helpers.supervised import Site, supervisor_process

from autoslim.core.result import TrialState
from autoslim.core.urls import default_url
from autoslim.store import FailureClass, QueueState, Store, schema
from autoslim.store.leases import LOSSES_ALLOWED
from workers.service.executor import Driver, DriverState
from workers.service.local_executor import LocalExecutor
from workers.service.process_identity import ProcessIdentity

S = QueueState


@pytest.fixture
def site(tmp_path, monkeypatch):
    with Site(default_url(tmp_path), tmp_path, monkeypatch) as site:
        yield site


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A site whose leases are short."""
    with Site(default_url(tmp_path), tmp_path, monkeypatch, lease=2.0) as site:
        yield site


def states(site, job):
    return [event.data["state"] for event in site.queue.events(job.id) if event.type == "state"]


def every_trial_is_counted_once(site, job, trials=4):
    with Store(site.settings.storage) as store:
        results = store.trials(job.id)
    assert [result.number for result in results] == list(range(trials))
    assert {result.state for result in results} == {TrialState.COMPLETE}
    ended = [event.data["trial"] for event in site.queue.events(job.id) if event.type == "trial_ended"]
    assert sorted(ended) == list(range(trials))


def test_a_job_goes_from_the_queue_to_its_result_and_leaves_events_and_a_log(site, capfd):
    job = site.submit()
    site.drive(site.supervisor(), site.is_ended(job))
    assert states(site, job) == ["QUEUED", "STARTING", "PREPARING", "SEARCHING", "FINALIZING", "SUCCEEDED"]
    every_trial_is_counted_once(site, job)
    result = json.loads(site.queue.get(job.id).result)
    assert result["models"] == [{"label": "50%", "folder": "models/50%"}]
    assert result["missing"] == []
    assert (result["cost"]["device_hours"], result["cost"]["money"]) == (0.5, 1.0)
    best = [event.data for event in site.queue.events(job.id) if event.type == "best"]
    assert [found["accuracy"] for found in best] == sorted(found["accuracy"] for found in best)
    assert {found["label"] for found in best} == {"50%"}
    reported = [event.data for event in site.queue.events(job.id) if event.type == "trial_reported"]
    assert [event.data["text"] for event in site.queue.events(job.id) if event.type == "message"] == ["dense model: epoch 1/1"]
    assert {found["loss"] for found in reported} == {None}, "not a number is no JSON"
    log = site.settings.log(job.id, 1).read_text()
    assert "trial 3 works" in log
    out = capfd.readouterr().out
    assert out == site.settings.log(job.id, 1).with_suffix(".jsonl").read_text()
    lines = [json.loads(line) for line in out.splitlines()]
    assert {(line["job_id"], line["attempt"]) for line in lines} == {(job.id, 1)}
    assert [line["trial"] for line in lines if line.get("event") == "trial_ended"] == [0, 1, 2, 3]
    assert f"job {job.id} is SUCCEEDED now" in [line.get("message") for line in lines]


@pytest.mark.slow
@pytest.mark.short
def test_what_a_driver_writes_is_its_users_alone(site):
    """Also on a node of a cluster, where no supervisor started it, and whatever the node's umask is."""
    before = os.umask(0o022)
    try:
        job = site.submit()
        site.drive(site.supervisor(), site.is_ended(job))
    finally:
        os.umask(before)
    written = [path for path in site.settings.folder(job.id).rglob("*") if path.suffix != ".log" and path.is_file()]
    assert {path.name for path in written} >= {"worked", "attempt-1.jsonl"}
    assert {path.name: path.stat().st_mode & 0o077 for path in written} == dict.fromkeys((path.name for path in written), 0)


@pytest.mark.slow
@pytest.mark.short
def test_drivers_give_way_to_the_api_by_as_much_as_the_operator_says(site):
    for niceness in (10, 3):
        executor = LocalExecutor(site.settings.model_copy(update={"niceness": niceness}), command=("sh", "-c", "sleep 600"))
        driver = Driver(f"job-{niceness}", 1)
        executor.start(driver)
        try:
            assert (
                os.getpriority(os.PRIO_PROCESS, executor._children[driver].pid) == os.getpriority(os.PRIO_PROCESS, 0) + niceness
            )
        finally:
            executor._children[driver].kill()
            executor.delete_record(driver)


@pytest.mark.faults
@pytest.mark.parametrize("content", [ProcessIdentity(pid=1, space="another-boot/1", started="0").to_json(), ""])
def test_a_record_of_another_boot_keeps_no_driver_from_its_start(site, content):
    """It is left by a restore, or by a power cut that undid the claim's transaction."""
    job, supervisor = site.submit(), site.supervisor(command=("sh", "-c", "sleep 600"))
    record = site.settings.root / "drivers" / f"{Driver(job.id, 1).name}.json"
    record.write_text(content)
    supervisor.reconcile()
    assert supervisor._executor.list_drivers() == {Driver(job.id, 1): DriverState.RUNNING}
    assert ProcessIdentity.from_json(record.read_text()) == ProcessIdentity.of(site.pid(job))


def test_a_driver_that_runs_here_is_started_once(site):
    executor, driver = LocalExecutor(site.settings, command=("sh", "-c", "sleep 600")), Driver("job", 1)
    executor.start(driver)
    child = executor._children[driver]
    try:
        LocalExecutor(site.settings, command=("sh", "-c", "exit 1")).start(driver)
        executor.start(driver)
        assert executor._children == {driver: child}
        assert json.loads((site.settings.root / "drivers" / "job-a1.json").read_text())["pid"] == child.pid
    finally:
        child.kill()
        executor.delete_record(driver)


@pytest.mark.faults
def test_a_killed_drivers_job_goes_on_with_what_was_unfinished(site):
    job, supervisor = site.submit(), site.supervisor()
    with site.held_after(2, job, supervisor):
        site.kill(job)
    site.drive(supervisor, site.is_ended(job))
    assert site.state(job) is S.SUCCEEDED
    assert site.queue.get(job.id).attempt == 2
    every_trial_is_counted_once(site, job)
    assert site.worked(job) == [(1, 0), (1, 1), (1, 2), (2, 2), (2, 3)]
    said = [event.data["text"] for event in site.queue.events(job.id) if event.type == "message"]
    assert [text.partition(" trials")[0] for text in said] == [
        "dense model: epoch 1/1",
        "continues with 2",
        "dense model: epoch 1/1",
    ]
    assert site.settings.log(job.id, 2).exists()


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_a_driver_goes_on_without_its_supervisor_and_the_next_one_starts_no_second(site):
    job = site.submit(trials=8)
    with supervisor_process(site) as first:
        site.drive(None, site.has_ended_trials(job, 1))
        first.kill()
        first.wait()
    site.drive(None, site.has_ended_trials(job, 3))
    supervisor = site.supervisor()
    site.drive(supervisor, site.is_ended(job))
    assert site.queue.get(job.id).attempt == 1
    every_trial_is_counted_once(site, job, 8)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_when_supervisor_and_driver_are_killed_the_next_supervisor_goes_on_at_once(site):
    job = site.submit()
    with supervisor_process(site) as first, site.held_after(1, job):
        first.kill()
        site.kill(job)
    # The lease of the killed driver would outlast the wait.
    assert site.settings.lease_seconds >= 30
    site.drive(site.supervisor(), site.is_ended(job), seconds=site.settings.lease_seconds)
    assert (site.state(job), site.queue.get(job.id).attempt) == (S.SUCCEEDED, 2)
    every_trial_is_counted_once(site, job)


@pytest.mark.slow
@pytest.mark.short
def test_stopping_the_supervisor_gives_its_jobs_back(site):
    job, waiting = site.submit(), site.submit()
    with supervisor_process(site) as first, site.held_after(1, job):
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
    assert [site.state(each) for each in (job, waiting)] == [S.QUEUED, S.QUEUED]
    assert site.queue.get(job.id).losses == 0
    site.drive(site.supervisor(), site.is_ended(job, waiting))
    assert [site.state(each) for each in (job, waiting)] == [S.SUCCEEDED, S.SUCCEEDED]
    every_trial_is_counted_once(site, job)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_cancelling_a_running_job_ends_it_within_seconds(site):
    site.mischief("hang")
    job, supervisor = site.submit(), site.supervisor()
    site.drive(supervisor, lambda: site.state(job) is S.SEARCHING)
    site.queue.request_cancel(job.id)
    site.drive(supervisor, site.is_ended(job), seconds=8)
    assert site.state(job) is S.CANCELLED
    site.drive(supervisor, lambda: not any(state.alive for state in supervisor._executor.list_drivers().values()))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_cancelling_works_before_the_driver_has_begun_and_while_it_is_paused(site):
    supervisor = site.supervisor(command=(sys.executable, "-c", "import time; time.sleep(600)"))
    starting = site.submit()
    supervisor.reconcile()
    assert site.state(starting) is S.STARTING
    site.queue.request_cancel(starting.id)
    site.kill(starting)
    site.drive(supervisor, site.is_ended(starting))
    assert site.state(starting) is S.CANCELLED

    site.mischief("full")
    paused, supervisor = site.submit(), site.supervisor()
    site.drive(supervisor, lambda: site.state(paused) is S.PAUSED)
    site.queue.request_cancel(paused.id)
    assert site.state(paused) is S.CANCELLED


@pytest.mark.slow
@pytest.mark.short
def test_a_deaf_driver_is_made_to_end_by_its_own_keeper(site, monkeypatch):
    monkeypatch.setenv("AUTOSLIM_TEST_GRACE", "1")
    site.mischief("deaf")
    job, supervisor = site.submit(), site.supervisor()
    site.drive(supervisor, lambda: site.state(job) is S.SEARCHING)
    site.queue.request_cancel(job.id)
    site.drive(supervisor, site.is_ended(job))
    assert site.state(job) is S.CANCELLED


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_a_driver_that_was_frozen_is_stopped_before_the_next_begins(short):
    job, supervisor = short.submit(), short.supervisor(grace=0.5)
    with short.held_after(1, job, supervisor):
        frozen = short.pid(job)
        short.freeze(job)
    short.drive(supervisor, short.is_ended(job))
    assert (short.state(job), short.queue.get(job.id).attempt) == (S.SUCCEEDED, 2)
    every_trial_is_counted_once(short, job)
    assert not is_alive(frozen)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_a_frozen_driver_that_wakes_up_too_late_ends_itself_and_writes_nothing(short):
    job, supervisor = short.submit(), short.supervisor()
    with short.held_after(1, job, supervisor):
        short.freeze(job)
    # Nobody stops it, and its trial is about to report: what it wrote from here on would be seen.
    short.drive(None, lambda: short.queue.get(job.id).lease_until < now())
    taken = short.queue.claim("somebody else", 600)
    assert taken.attempt == 2
    with Store(short.settings.storage) as store:
        before = short.queue.events(job.id), store.fingerprint(job.id)
        short.kill(job, number=signal.SIGCONT)
        short.drive(None, lambda: not is_alive(short.pid(job)))
        assert (short.queue.events(job.id), store.fingerprint(job.id)) == before
    assert short.queue.get(job.id).owner == "somebody else"
    # By the answer of the database or by its own clock, whichever it hears of first.
    assert re.search(r"no longer held by|the lease ran out", short.settings.log(job.id, 1).read_text())


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_a_full_disk_puts_the_job_off_until_there_is_room(site):
    site.mischief("full")
    job, supervisor = site.submit(), site.supervisor()
    site.drive(supervisor, lambda: site.state(job) is S.PAUSED)
    assert site.queue.get(job.id).reason.startswith("storage: the disk is full")
    site.mischief(None)
    site.drive(supervisor, site.is_ended(job))
    assert site.state(job) is S.SUCCEEDED
    every_trial_is_counted_once(site, job)


@pytest.mark.faults
def test_a_failure_has_a_class_a_sentence_and_a_next_command(site):
    site.mischief("nan")
    job = site.submit(trials=1)
    site.drive(site.supervisor(), site.is_ended(job))
    failure = site.queue.get(job.id).failure
    assert (failure.failure_class, failure.message) == (FailureClass.DIVERGED, "the loss is nan")
    assert failure.next == "autoslim submit job.yaml --lr 5e-05"
    assert "Traceback" in site.settings.log(job.id, 1).read_text()


@pytest.mark.slow
@pytest.mark.short
def test_a_search_without_a_model_is_a_failed_job(site):
    site.mischief("nothing")
    job = site.submit(trials=1)
    site.drive(site.supervisor(), site.is_ended(job))
    failure = site.queue.get(job.id).failure
    assert (failure.failure_class, failure.message) == (FailureClass.INFEASIBLE, "50%: no trial was completed within this budget")


@pytest.mark.slow
@pytest.mark.short
def test_a_driver_that_cannot_even_begin_is_given_up_and_its_words_are_kept(site):
    supervisor = site.supervisor(command=(sys.executable, "-c", "raise SystemExit('no such module')"))
    job = site.submit()

    def is_ended():
        with site.queue._database.writing() as connection:
            connection.execute(schema.queue.update().values(not_before=None))
        return site.state(job).ended

    site.drive(supervisor, is_ended)
    found = site.queue.get(job.id)
    assert (found.state, found.attempt, found.failure.failure_class) == (S.FAILED, LOSSES_ALLOWED, FailureClass.INFRA)
    assert "no such module" in site.settings.log(job.id, LOSSES_ALLOWED).read_text()


@pytest.mark.slow
@pytest.mark.short
def test_as_many_jobs_are_driven_at_a_time_as_there_is_room_for(site):
    jobs = [site.submit(trials=3) for _ in range(4)]
    supervisor, most = site.supervisor(jobs=2), 0

    def is_ended():
        nonlocal most
        most = max(most, sum(site.state(job).running for job in jobs))
        return all(site.state(job).ended for job in jobs)

    site.drive(supervisor, is_ended)
    assert most == 2
    assert [site.state(job) for job in jobs] == [S.SUCCEEDED] * 4


@pytest.mark.faults
@pytest.mark.slow
def test_a_database_that_goes_away_costs_no_trial(tmp_path, monkeypatch):
    with postgres_server() as server, Site(fresh_postgres(server), tmp_path, monkeypatch) as site:
        job = site.submit()
        with supervisor_process(site):
            with site.held_after(1, job):
                server.stop("immediate")
            time.sleep(2.0)
            server.start(password=PASSWORD)
            site.drive(None, site.is_ended(job))
        assert site.state(job) is S.SUCCEEDED
        every_trial_is_counted_once(site, job)
        assert PASSWORD not in site.logs()


def is_alive(pid):
    return not ProcessIdentity.of(pid).is_dead()


def now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
