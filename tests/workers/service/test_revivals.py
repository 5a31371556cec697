"""What has exited is started again: at once, one at a time, and not in a tight loop."""

from __future__ import annotations

import itertools

import pytest

from workers.service.revivals import Revivals

NEEDS = {
    "postgres": None,
    "mlflow": "postgres",
    "ray-head": None,
    "ray-worker": "ray-head",
    "api": "postgres",
    "supervisor": "postgres",
}
ALL = tuple(NEEDS)


def without(*names):
    return [name for name in ALL if name not in names]


@pytest.mark.parametrize("name", ALL)
def test_a_program_that_exits_is_started_again_at_once(name):
    assert Revivals(NEEDS).due(without(name), 0.0) == name
    assert Revivals(NEEDS).due(ALL, 0.0) is None


def test_what_others_need_comes_first_and_they_wait_for_it():
    revivals = Revivals(NEEDS)
    assert revivals.due([], 0.0) == "postgres"
    # It did not start: nothing that needs it is tried.
    assert revivals.due([], 1.0) == "ray-head"
    assert revivals.due([], 2.0) is None
    assert revivals.due(["postgres", "ray-head"], 3.0) == "mlflow"
    assert revivals.due(["postgres", "mlflow", "ray-head"], 4.0) == "ray-worker"


def test_one_that_exits_again_and_again_waits_longer_each_time_until_it_has_been_well():
    revivals, starts, now = Revivals(NEEDS), [], 0.0
    while now < 2000:
        if revivals.due(without("api"), now) is not None:
            starts.append(now)
        now += 1.0
    assert [after - before for before, after in itertools.pairwise(starts)] == [
        5,
        10,
        20,
        40,
        80,
        160,
        300,
        300,
        300,
        300,
        300,
    ]
    assert revivals.due(ALL, now) is None
    # It ran for an hour.
    assert revivals.due(without("api"), now + 3600) == "api"
    assert revivals.due(without("api"), now + 3606) == "api"
