"""How a worker learns that it has to leave its node, and what a trial in it does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RpcError

from autoslim.core.stall_watch import StallWatch
from autoslim.errors import PreemptedError, RankLostError
from workers.search.drain_watch import DrainWatch
from workers.search.tune_trainable import TrialTrainable


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_node_that_drains_is_noticed_and_another_one_is_not() -> None:
    draining, asked = {"other"}, []

    def look() -> set[str]:
        asked.append(1)
        if len(asked) == 2:
            raise RpcError("the head restarts")
        return draining

    watch = DrainWatch("own", draining=look, every=0.01).start()
    wait_until(lambda: len(asked) > 3)
    assert not watch()
    draining.add("own")
    wait_until(watch)
    assert watch.reason == "its node drains"


def test_a_watch_that_is_stopped_asks_no_more() -> None:
    asked: list[int] = []

    def look() -> set[str]:
        asked.append(1)
        return set()

    watch = DrainWatch("own", draining=look, every=0.01).start()
    wait_until(lambda: bool(asked))
    watch.stop()
    time.sleep(0.05)
    count = len(asked)
    time.sleep(0.05)
    assert len(asked) == count


def test_the_first_sigterm_asks_the_trial_to_leave_and_the_second_one_ends_the_process() -> None:
    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    watch = DrainWatch("own", draining=set)
    try:
        with watch.taking_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(watch)
            assert ended == []
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: bool(ended))
        # No trial is in a step: the process ends at once.
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: len(ended) == 2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert watch.reason == "SIGTERM was sent to its process"


def trainable_of(reports: Iterator[Any], *, leaves: bool = False) -> TrialTrainable:
    """Without its set-up, which opens a model and images."""
    trainable = TrialTrainable.__new__(TrialTrainable)
    trainable._leaves, trainable._stalls = DrainWatch("own", draining=set), StallWatch(0.0)
    if leaves:
        trainable._leaves._leave("its node drains")
    trainable._trial_config = {"output_uri": "", "trial_folder": "/runs/trials/t"}
    trainable._work, trainable._system, trainable._is_open = reports, SimpleNamespace(sample=dict), True
    return trainable


@pytest.mark.parametrize("error", [RankLostError("rank 1 of 2 was ended by SIGKILL"), PreemptedError("after step 3")])
def test_what_is_no_error_of_the_trial_is_an_error_to_tune(error: Exception) -> None:
    def lost() -> Iterator[Any]:
        yield from ()
        raise error

    with pytest.raises(type(error), match=str(error)):
        trainable_of(lost()).step()


def test_a_trial_that_hangs_in_a_step_is_noticed_and_one_that_waits_for_the_next_is_not() -> None:
    ended: list[str] = []
    stalls = StallWatch(60.0, idle=lambda: 61.0, end=ended.append)

    def reports() -> Iterator[Any]:
        stalls.look()
        yield from ()
        raise PreemptedError("after step 3")

    trainable = trainable_of(reports())
    trainable._stalls = stalls
    stalls.look()
    assert ended == []
    with pytest.raises(PreemptedError):
        trainable.step()
    assert len(ended) == 1
    stalls.look()
    assert len(ended) == 1


def test_a_trial_that_has_to_leave_begins_no_further_step() -> None:
    def reports() -> Iterator[Any]:
        yield pytest.fail("a step was begun")

    with pytest.raises(PreemptedError, match="between two reports"):
        trainable_of(reports(), leaves=True).step()
