"""Work that trials share: done once, by one of many processes, whichever is killed; its cost is recorded."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.signs_of_life import counted_marks
from torch import Tensor

from autoslim.core.result import EpochReport, Phase
from autoslim.training import single_flight
from autoslim.training.shared_results import SharedRequest, compute_once, costs

REQUEST = SharedRequest(
    method="toy", settings={"l1": "paper"}, base_digest="b", dataset_digest="d", training={"epochs": 3.0}, seed=0
)


def work(marks: Path, *, hold: float = 0.0) -> Generator[EpochReport, None, dict[str, Tensor]]:
    """Leaves a file for every time it was begun."""
    (marks / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    yield EpochReport(epoch=0.5, phase=Phase.SHARED, metrics={"loss": 1.0})
    time.sleep(hold)
    yield EpochReport(epoch=1.5, phase=Phase.SHARED, metrics={"loss": 0.5})
    return {"score": torch.arange(4.0)}


def drain(generator: Generator[EpochReport, None, Any]) -> tuple[list[EpochReport], Any]:
    reports = []
    while True:
        try:
            reports.append(next(generator))
        except StopIteration as end:
            return reports, end.value


def run(root: Path, marks: Path, hold: float) -> None:
    single_flight.HEARTBEAT_SECONDS, single_flight.DEAD_AFTER_SECONDS = 0.1, 1.5
    _, found = drain(compute_once(root, REQUEST, work(marks, hold=hold)))
    (root / f"got-{os.getpid()}").write_text(str(found["score"].tolist()))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    root, marks = tmp_path / "shared", tmp_path / "marks"
    root.mkdir()
    marks.mkdir()
    return root, marks


def start(root: Path, marks: Path, hold: float) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=run, args=(root, marks, hold))
    process.start()
    return process


def test_the_second_time_it_is_only_read(folders: tuple[Path, Path]):
    root, marks = folders
    reports, first = drain(compute_once(root, REQUEST, work(marks)))
    assert [report.epoch for report in reports] == [0.5, 1.5]
    reports, second = drain(compute_once(root, REQUEST, work(marks)))
    assert reports == []
    assert torch.equal(first["score"], second["score"])
    assert len(list(marks.iterdir())) == 1


def test_other_settings_are_other_work(folders: tuple[Path, Path]):
    root, marks = folders
    for request in (REQUEST, REQUEST.replace(settings={"l1": "even"}), REQUEST.replace(base_digest="other")):
        drain(compute_once(root, request, work(marks)))
    assert len(list(marks.iterdir())) == 3
    assert len(costs(root)) == 3


def test_the_cost_is_kept_with_the_result(folders: tuple[Path, Path]):
    root, marks = folders
    drain(compute_once(root, REQUEST, work(marks, hold=0.2)))
    (cost,) = costs(root)
    assert (cost.method, cost.settings, cost.epochs) == ("toy", {"l1": "paper"}, 1.5)
    assert cost.seconds >= 0.2


@pytest.mark.slow
def test_of_three_at_once_one_works_and_two_wait(folders: tuple[Path, Path]):
    root, marks = folders
    processes = [start(root, marks, 2.5) for _ in range(3)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(list(marks.iterdir())) == 1
    assert [path.read_text() for path in root.glob("got-*")] == ["[0.0, 1.0, 2.0, 3.0]"] * 3
    assert list(root.glob("*.lock*")) == list(root.glob("*.partial*")) == []


def test_who_waits_for_a_result_gives_signs_of_life(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(single_flight, "_POLL_SECONDS", 0.001)
    lock = single_flight._Lock(folders[0] / "key.lock")
    assert lock.acquire()
    marks, answers = counted_marks(monkeypatch), iter([False, False, False, True])
    lock.wait(until=lambda: next(answers))
    assert len(marks) == 3


def killed_at_work(root: Path, marks: Path) -> None:
    process = start(root, marks, 600.0)
    while not list(marks.iterdir()):
        assert process.is_alive()
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(60)


@pytest.mark.slow
@pytest.mark.short
def test_a_killed_worker_is_followed_by_one_that_waits(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    """Although its heartbeat would never be missed: both are in one PID namespace."""
    monkeypatch.setattr(single_flight, "DEAD_AFTER_SECONDS", math.inf)
    root, marks = folders
    killed_at_work(root, marks)
    assert list(root.glob("*.lock"))
    assert drain(compute_once(root, REQUEST, work(marks)))[1]["score"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert len(list(marks.iterdir())) == 2
    assert len(costs(root)) == 1


@pytest.mark.slow
def test_a_worker_of_another_host_is_dead_when_its_heartbeat_has_stopped(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    root, marks = folders
    killed_at_work(root, marks)
    (lock,) = root.glob("*.lock")
    owner, _, pid, count = (lock / "heartbeat").read_text().split()
    (lock / "heartbeat").write_text(f"{owner} elsewhere {pid} {count}")
    monkeypatch.setattr(single_flight, "DEAD_AFTER_SECONDS", 1.5)
    began = time.monotonic()
    drain(compute_once(root, REQUEST, work(marks)))
    assert time.monotonic() - began >= 1.5
    assert len(list(marks.iterdir())) == 2


def test_an_error_frees_the_lock_for_the_next(folders: tuple[Path, Path]):
    root, marks = folders

    def failing() -> Generator[EpochReport, None, dict[str, Tensor]]:
        yield EpochReport(epoch=0.1, phase=Phase.SHARED, metrics={})
        raise ValueError("the search diverged")

    with pytest.raises(ValueError, match="diverged"):
        drain(compute_once(root, REQUEST, failing()))
    assert costs(root) == []
    assert drain(compute_once(root, REQUEST, work(marks)))[1]["score"].tolist() == [0.0, 1.0, 2.0, 3.0]
