"""One supervisor a service: however the API or the supervisor ends, no process stays behind and a next start adds no second one.

All are real processes; the drivers' search is a trivial one.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

import psutil
import pytest
from helpers.marks import CI_ONLY
from helpers.supervised import Site, service_process, supervisor_process

from autoslim.core.urls import default_url
from autoslim.service.child_process import TERMINATE_SECONDS
from autoslim.store import QueueState
from workers.service.local_executor import _KILL_SECONDS, STOP_GRACE
from workers.service.stop_request import _HANGING_SECONDS

S = QueueState


@pytest.fixture
def site(tmp_path, monkeypatch):
    with Site(default_url(tmp_path), tmp_path, monkeypatch) as site:
        yield site


def supervisors(site):
    """The processes that are supervisors of this site, running or waiting, oldest first."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("AUTOSLIM_ROOT") == str(site.settings.root) and any(
                argument.startswith("from workers.service.supervise ") for argument in process.cmdline()
            ):
                found.append(process)
    return sorted(found, key=psutil.Process.create_time)


def has_only_another_supervisor(site, former):
    def is_so():
        pids = [each.pid for each in supervisors(site)]
        return len(pids) == 1 and pids != [former.pid]

    return is_so


def gone(*processes):
    return lambda: all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


@contextlib.contextmanager
def searching(site):
    """A service whose driver is in the middle of a job: the API, its supervisor, the driver and the job."""
    site.mischief("hang")
    with service_process(site) as api:
        job = site.submit()
        site.drive(None, lambda: site.state(job) is S.SEARCHING)
        (supervisor,) = supervisors(site)
        yield api, supervisor, psutil.Process(site.pid(job)), job


def is_free_of_losses(site, job):
    return site.queue.get(job.id).losses == 0


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=CI_ONLY if number is signal.SIGKILL else pytest.mark.slow)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    ],
)
def test_however_the_api_ends_its_supervisor_and_drivers_end_in_order(site, number):
    with searching(site) as (api, supervisor, driver, job):
        api.send_signal(number)
        code = api.wait(30)
        site.drive(None, gone(supervisor, driver))
        assert code == (-signal.SIGKILL if number is signal.SIGKILL else 0)
        # The driver gave its job back: it was not killed.
        assert (site.state(job), is_free_of_losses(site, job)) == (S.QUEUED, True)
        assert supervisors(site) == []


@pytest.mark.slow
def test_a_second_signal_does_not_cut_the_orderly_end_short(site):
    with searching(site) as (api, supervisor, driver, job):
        for _ in range(3):
            api.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert api.wait(30) == 0
        assert gone(supervisor, driver)()
        assert (site.state(job), is_free_of_losses(site, job)) == (S.QUEUED, True)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_a_killed_supervisor_is_followed_by_one_that_adopts_its_drivers(site):
    with searching(site) as (_, supervisor, driver, job):
        supervisor.kill()
        site.drive(None, has_only_another_supervisor(site, supervisor))
        site.mischief(None)
        site.drive(None, site.is_ended(job))
        assert (site.state(job), site.queue.get(job.id).attempt) == (S.SUCCEEDED, 1)
        site.drive(None, gone(driver))


@pytest.mark.faults
@pytest.mark.slow
def test_when_api_and_supervisor_are_killed_at_once_the_next_start_adopts_the_driver(site):
    with searching(site) as (api, supervisor, driver, job):
        for process in (supervisor, api):
            process.kill()
        api.wait()
        site.drive(None, gone(supervisor))
        assert not gone(driver)()
        with service_process(site):
            site.drive(None, lambda: len(supervisors(site)) == 1)
            site.mischief(None)
            site.drive(None, site.is_ended(job))
            assert (site.state(job), site.queue.get(job.id).attempt) == (S.SUCCEEDED, 1)
            assert len(supervisors(site)) == 1


@pytest.mark.faults
@pytest.mark.slow
def test_a_second_supervisor_waits_takes_over_at_once_and_ends_when_it_is_asked_to(site, capfd):
    with supervisor_process(site) as first:
        site.drive(None, lambda: any(site.settings.root.glob("supervisor-*.json")))
        with supervisor_process(site) as second, supervisor_process(site) as third:
            said = []

            def both_wait():
                said.append(capfd.readouterr().err)
                assert first.poll() is second.poll() is third.poll() is None
                return "".join(said).count(f"another supervisor, process {first.pid}, runs the jobs of") == 2

            site.drive(None, both_wait)
            third.send_signal(signal.SIGTERM)
            assert third.wait(10) == 0
            first.kill()
            job = site.submit()
            site.drive(None, site.is_ended(job))
            assert site.state(job) is S.SUCCEEDED
            assert second.poll() is None


@pytest.mark.slow
@pytest.mark.short
def test_a_driver_that_does_not_obey_is_killed_before_the_supervisor_has_ended(site):
    site.mischief("deaf")
    job, supervisor = site.submit(), site.supervisor(grace=0.5)
    site.drive(supervisor, lambda: site.state(job) is S.SEARCHING)
    driver = psutil.Process(site.pid(job))
    supervisor._executor.close()
    assert gone(driver)()


def test_who_waits_for_another_waits_longer_than_that_one_takes():
    assert min(TERMINATE_SECONDS, _HANGING_SECONDS) > STOP_GRACE + _KILL_SECONDS


@pytest.mark.slow
@pytest.mark.short
def test_a_supervisor_whose_parent_is_gone_ends_even_where_it_hangs():
    code = (
        "import signal, time; from workers.service import stop_request\n"
        "stop_request._HANGING_SECONDS = 0.2\n"
        "stop = stop_request.StopRequest(); stop.on_signals(); stop.on_end_of(0)\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.stdin.close()
        assert process.wait(30) == 1
