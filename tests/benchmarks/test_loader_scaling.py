"""Scaling in turns: processes that are bound to their cores, what they measure, and that they end."""

from __future__ import annotations

import multiprocessing
import os

import pytest
from bound_reader import BoundReader, bound_to, serve
from helpers.epoch_readers import fail, open_on_clock
from loader_scaling import measure_scaling

CORES = sorted(os.sched_getaffinity(0))[:2]


@pytest.mark.skipif(len(CORES) < 2, reason="two cores are needed")
def test_a_loader_on_two_cores_and_two_on_one_each_are_compared_with_one_on_one() -> None:
    readings = [("light", "cache"), ("strong", "timm")]
    found = list(measure_scaling(open_on_clock, readings, side=32, cores=CORES, few=1, seconds=0, window=4))
    assert [(one.side, one.few, one.many, one.augmentation, one.loader) for one in found] == [
        (32, 1, 2, *one) for one in readings
    ]
    # 1.25 seconds an epoch instead of 2, and two epochs in two seconds.
    assert {one.gain for one in found} == {(1.6, 1.6, 1.6)}
    assert {one.ceiling for one in found} == {(2.0, 2.0, 2.0)}
    assert not multiprocessing.active_children()
    assert os.sched_getaffinity(0) >= set(CORES)


@pytest.mark.parametrize(
    ("loader", "message"),
    [("cache", "no images for cache with light on 1"), ("killed", "has ended with exit code 7")],
)
def test_a_process_that_fails_is_an_error_and_leaves_nothing_behind(loader: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message), BoundReader(fail, CORES[:1]) as reader:
        reader.start(("light", loader), 0)
        reader.speed()
    assert not multiprocessing.active_children()


def test_a_process_ends_once_the_benchmark_has_ended() -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.send((("light", "cache"), 0))
    ours.close()
    epochs = []
    with theirs:
        serve(lambda *what: lambda: epochs.append(what), theirs)
    assert epochs == [("light", "cache")]


def test_a_binding_ends_with_an_error() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(OSError, match="not started"), bound_to(CORES[:1]):
        assert os.sched_getaffinity(0) == {CORES[0]}
        raise OSError("not started")
    assert os.sched_getaffinity(0) == before
