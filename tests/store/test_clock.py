"""Leases and pauses last as long as they are said to, whatever becomes of the time of day; where PostgreSQL's is set, leases begin anew."""

from __future__ import annotations

import datetime
import json
import time

import pytest
from helpers.databases import fresh_postgres

from autoslim.errors import LeaseLostError
from autoslim.store import Queue, QueueState, clock

S = QueueState
SPEC = json.dumps({"model": "deit_tiny_patch16_224", "flops": ["50%"]})
HOURS = [-1, 1]


@pytest.fixture
def queue(tmp_path):
    """In SQLite. Nothing in PostgreSQL reads the time of day of this process."""
    with Queue(f"sqlite:///{tmp_path / 'q.db'}") as queue:
        queue.submit(SPEC, tenant="me")
        yield queue


def setter(monkeypatch, name):
    """Sets this clock of the module forth by hours, each time from what it says then."""

    def set_by(hours):
        real = getattr(clock, name)
        monkeypatch.setattr(clock, name, lambda *of: real(*of) + datetime.timedelta(hours=hours))

    return set_by


@pytest.fixture
def set_clock(monkeypatch):
    return setter(monkeypatch, "wall_clock")


@pytest.fixture
def postgres_queue(postgres):
    with Queue(fresh_postgres(postgres)) as queue:
        queue.submit(SPEC, tenant="me")
        yield queue


@pytest.fixture
def set_server_clock(monkeypatch):
    """What PostgreSQL's own clock says."""
    return setter(monkeypatch, "_server")


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.faults
def test_postgresql_set_forward_leaves_a_running_job_to_its_driver(postgres_queue, set_server_clock):
    claim = postgres_queue.claim("a", 60)
    set_server_clock(1)
    assert postgres_queue.claim("b", 60) is None
    assert postgres_queue.renew(claim, 60) is False
    postgres_queue.requeue_expired()
    found = postgres_queue.get(claim.id)
    assert (found.attempt, found.losses, found.reason) == (1, 0, None)


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.faults
@pytest.mark.parametrize("hours", HOURS)
def test_where_postgresql_is_set_a_lost_job_waits_for_one_more_lease(postgres_queue, set_server_clock, hours):
    postgres_queue.claim("a", 2)
    set_server_clock(hours)
    postgres_queue.requeue_expired()
    assert postgres_queue.claim("b", 60) is None
    time.sleep(2.1)
    assert postgres_queue.claim("b", 60).attempt == 2


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.faults
def test_a_supervisor_that_starts_after_postgresql_was_set_back_waits_for_one_more_lease(postgres, set_server_clock):
    url = fresh_postgres(postgres)
    with Queue(url) as before:
        before.submit(SPEC, tenant="me")
        before.claim("a", 2)
    set_server_clock(-1)
    with Queue(url) as after:
        assert after.claim("b", 60) is None
        time.sleep(2.1)
        assert after.claim("b", 60).attempt == 2


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.faults
@pytest.mark.parametrize("hours", HOURS)
def test_the_job_of_a_driver_that_is_known_to_be_dead_does_not_wait_where_postgresql_is_set(
    postgres_queue, set_server_clock, hours
):
    claim = postgres_queue.claim("a", 60)
    postgres_queue.expire_lease(claim.id, 1)
    set_server_clock(hours)
    assert postgres_queue.claim("b", 60).attempt == 2


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize("hours", HOURS)
def test_a_pause_is_over_where_postgresql_is_set(postgres_queue, set_server_clock, hours):
    claim = postgres_queue.claim("a", 60)
    postgres_queue.pause(claim.id, 1, "waiting for a node", 60)
    set_server_clock(hours)
    postgres_queue.requeue_expired()
    assert postgres_queue.get(claim.id).state is S.QUEUED
    assert postgres_queue.claim("b", 60).attempt == 2


@pytest.mark.parametrize(
    ("advanced", "machine", "waited", "was_set"),
    [
        (1.0, 1.0, 0.0, False),
        (3600.0, 3600.0, 0.0, False),
        # By small corrections.
        (100.5, 100.0, 0.0, False),
        (3601.0, 1.0, 0.0, True),
        (-3599.0, 1.0, 0.0, True),
        (3.0, 1.0, 0.0, True),
        (-1.0, 1.0, 0.0, True),
        # The database answers late.
        (1.0, 20.0, 19.0, False),
        (20.0, 1.0, 19.0, False),
        (22.0, 1.0, 19.0, True),
    ],
)
def test_a_clock_was_set_where_it_has_advanced_by_more_or_less_than_the_machine(advanced, machine, waited, was_set):
    begin = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
    first = clock.Instant(begin, begin, (50.0, 50.0))
    then = begin + datetime.timedelta(seconds=advanced)
    # Asked `machine` seconds after the first, and answered within `waited` seconds before or after that.
    second = clock.Instant(then, then, (50.0 + machine - waited, 50.0 + machine + waited))
    assert second.was_set_since(first) is was_set


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.faults
def test_postgresql_set_back_leaves_a_job_to_the_driver_that_renews_it(postgres_queue, set_server_clock):
    claim = postgres_queue.claim("a", 60)
    set_server_clock(-1)
    assert postgres_queue.renew(claim, 60) is False
    assert postgres_queue.claim("b", 60) is None


@pytest.mark.faults
@pytest.mark.parametrize("hours", HOURS)
def test_a_lease_that_is_held_stays_held_when_the_clock_is_set(queue, set_clock, hours):
    claim = queue.claim("a", 60)
    set_clock(hours)
    queue.requeue_expired()
    assert queue.claim("b", 60) is None
    assert queue.renew(claim, 60) is False
    assert queue.get(claim.id).reason is None


@pytest.mark.faults
@pytest.mark.parametrize("hours", HOURS)
def test_a_lease_that_is_not_renewed_ends_in_time_when_the_clock_is_set(queue, set_clock, hours):
    first = queue.claim("a", 0.05)
    set_clock(hours)
    time.sleep(0.1)
    assert queue.claim("b", 60).attempt == 2
    with pytest.raises(LeaseLostError):
        queue.renew(first, 60)


@pytest.mark.parametrize("hours", HOURS)
def test_a_pause_is_as_long_as_it_was_meant_to_be(queue, set_clock, hours):
    claim = queue.claim("a", 60)
    queue.pause(claim.id, 1, "waiting for a node", 0.3)
    set_clock(hours)
    queue.requeue_expired()
    assert queue.get(claim.id).state is S.PAUSED
    time.sleep(0.4)
    queue.requeue_expired()
    assert queue.get(claim.id).state is S.QUEUED
    assert queue.claim("b", 60).attempt == 2


def test_processes_that_open_the_file_after_the_clock_was_set_agree_with_those_before(tmp_path, set_clock):
    url = f"sqlite:///{tmp_path / 'q.db'}"
    with Queue(url) as before:
        before.submit(SPEC, tenant="me")
        claim = before.claim("a", 60)
        set_clock(1)
        with Queue(url) as after:
            assert after.claim("b", 60) is None
            assert after.renew(claim, 60) is False


def test_after_a_boot_with_a_clock_that_is_behind_no_lease_holds_longer_than_it_was_given_for(tmp_path, set_clock, monkeypatch):
    url = f"sqlite:///{tmp_path / 'q.db'}"
    with Queue(url) as queue:
        queue.submit(SPEC, tenant="me")
        queue.claim("a", 0.05)
    time.sleep(0.1)
    monkeypatch.setattr(clock, "_boot", lambda: "the next boot")
    monkeypatch.setattr(clock, "uptime", lambda: 7.0)
    set_clock(-5)
    with Queue(url) as queue:
        monkeypatch.setattr(clock, "uptime", lambda: 8.0)
        assert queue.claim("b", 60).attempt == 2


def test_after_a_boot_leases_and_pauses_of_the_former_one_are_over_where_its_clock_was_set_back(tmp_path, set_clock, monkeypatch):
    url = f"sqlite:///{tmp_path / 'q.db'}"
    with Queue(url) as queue:
        for _ in range(2):
            queue.submit(SPEC, tenant="me")
        set_clock(-5)
        queue.claim("a", 60)
        paused = queue.claim("a", 60)
        queue.pause(paused.id, 1, "waiting for a node", 60)
    monkeypatch.setattr(clock, "_boot", lambda: "the next boot")
    monkeypatch.setattr(clock, "uptime", lambda: 7.0)
    with Queue(url) as queue:
        monkeypatch.setattr(clock, "uptime", lambda: 8.0)
        assert [queue.claim("b", 60).attempt for _ in range(2)] == [2, 2]


def test_another_time_namespace_of_the_same_boot_leaves_a_lease_to_its_holder(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'q.db'}"
    monkeypatch.setattr(clock, "_boot", lambda: "boot/1")
    with Queue(url) as first:
        first.submit(SPEC, tenant="me")
        first.claim("a", 60)
        monkeypatch.setattr(clock, "_boot", lambda: "boot/2")
        with Queue(url) as second:
            assert second.claim("b", 60) is None


def test_the_time_of_day_is_what_people_see(queue, set_clock):
    set_clock(-1)
    claim = queue.claim("a", 60)
    shown = datetime.datetime.fromisoformat(queue.get(claim.id).started_at)
    assert abs((shown - clock.wall_clock()).total_seconds()) < 60
