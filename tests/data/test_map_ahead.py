from __future__ import annotations

import threading

import pytest
from helpers.signs_of_life import counted_marks

from autoslim.data.map_ahead import THREAD_NAME, map_ahead


def test_results_come_in_the_order_of_the_items():
    gate = threading.Event()

    def function(number: int) -> int:
        # The first one is the last to be done.
        gate.wait() if number == 0 else number == 3 and gate.set()
        return number * number

    assert list(map_ahead(function, range(20), threads=2, ahead=5)) == [number * number for number in range(20)]


def test_each_result_is_a_sign_of_life(monkeypatch):
    marks = counted_marks(monkeypatch)
    results = map_ahead(lambda number: number, range(20), threads=2, ahead=5)
    assert marks == []
    assert len(list(results)) == len(marks) == 20


def test_no_more_items_are_taken_than_are_ahead():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), threads=2, ahead=3)
    assert next(results) == 0
    assert len(taken) == 4
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


def test_by_default_all_usable_cpus_compute_at_a_time(monkeypatch):
    monkeypatch.setattr("autoslim.data.map_ahead.usable_cpus", lambda: 3)
    together = threading.Barrier(3)
    assert sorted(map_ahead(lambda _: together.wait(timeout=30), range(3))) == [0, 1, 2]


def test_an_error_reaches_the_caller_and_ends_the_threads():
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda number: 1 // number, [2, 1, 0, 5], threads=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]
