"""Ctrl-C and kill -9 in the middle of a search, then `--resume`."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.workers_command import SEARCH, Search

from autoslim.core.result import Origin, TrialState
from autoslim.core.urls import default_url
from autoslim.models.weights import file_digest
from autoslim.store import JobState, Store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.usefixtures("no_search_is_left")]


def test_a_search_stopped_by_ctrl_c_and_then_by_kill_ends_with_every_trial_counted_once(tmp_path: Path) -> None:
    output = tmp_path / "run"
    first = Search(*SEARCH, "--trials", "6", "--output", str(output))
    first.read_until(lambda line: "trial 2" in line and "epoch" in line)
    first.send(signal.SIGINT)
    assert first.end() == 130, first.text
    assert f"Go on with: autoslim search --resume --output {output}" in first.text
    assert "Traceback" not in first.text
    after_first = _finished(output)
    assert after_first, first.text

    second = Search("--resume", "--output", str(output))
    second.read_until(lambda line: "trial 4" in line and " starts: " in line)
    second.kill_all()
    after_second = _finished(output)
    assert set(after_first) <= set(after_second)

    third = Search("--resume", "--output", str(output))
    assert third.end() == 0, third.text
    for number in after_second:
        assert not re.search(rf"trial {number} \(\d+/\d+ done\)", third.text), f"trial {number} was run again:\n{third.text}"

    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        results = store.trials(stored.job.id)
        assert stored.state is JobState.COMPLETE
    assert [result.number for result in results] == list(range(6))
    assert all(result.state is TrialState.COMPLETE for result in results), [result.error for result in results]
    assert {number: results[number].accuracy for number in after_second} == after_second
    table = pq.read_table(output / "trials.parquet")
    assert table["number"].to_pylist() == list(range(6))
    assert sorted(path.name for path in (output / "models").iterdir()) == ["50%", "70%"]


def _finished(output: Path) -> dict[int, float | None]:
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        return {r.number: r.accuracy for r in store.trials(stored.job.id) if r.state is not TrialState.RUNNING}


# One trial at a time, so that proposals do not depend on which of two trials ends first.
ONE_WORKER = ("--concurrency", "1", "--speed", "none", "--forms", "none")
ONE_BUDGET = [flag for place, flag in enumerate(SEARCH) if place not in (SEARCH.index("70%") - 1, SEARCH.index("70%"))]
# Epochs enough that trial 0 is still being trained when its first epoch has been read.
SHORT = (*ONE_BUDGET, *ONE_WORKER, "--trials", "2", "--epochs", "6", "--final-share", "0")
LONG = (*SEARCH, *ONE_WORKER, "--trials", "10", "--scheduler", "halving", "--final-share", "0.4")

Row = tuple[Any, ...]


def _rows(output: Path) -> list[Row]:
    """What a search decides and finds, without times."""
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        results = store.trials(stored.job.id)
    return [
        (
            r.number,
            r.recipe,
            r.origin,
            r.state,
            r.accuracy,
            r.accuracy_after_pruning,
            r.flops,
            r.epochs,
            r.stopped,
            r.duplicate_of,
        )
        for r in results
    ]


def _weights(output: Path) -> dict[str, str]:
    """Digests of the delivered models."""
    paths = sorted(output.glob("models/*/model.safetensors"))
    return {path.parent.name: file_digest(path) for path in paths}


def _undisturbed(output: Path, *flags: str) -> list[Row]:
    run = Search(*flags, "--output", str(output))
    assert run.end() == 0, run.text
    return _rows(output)


def _is_progress(line: str) -> bool:
    return any(word in line for word in ("epoch", " starts: ", " ends: ", "is stopped", "evaluating"))


def _kill_after(search: Search, chance: random.Random, *, lines: int) -> None:
    """Kills everything at a random moment after `lines` lines of progress."""
    for _ in range(lines):
        search.read_until(_is_progress)
    time.sleep(chance.uniform(0, 0.7))
    search.kill_all()


@pytest.mark.faults
def test_a_search_whose_worker_and_then_all_processes_are_killed_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    expected = _undisturbed(tmp_path / "undisturbed", *SHORT)
    assert [row[3] for row in expected] == [TrialState.COMPLETE] * 2

    chance, output = random.Random(5), tmp_path / "killed"
    first = Search(*SHORT, "--output", str(output))
    first.read_until(lambda line: "trial 0" in line and "epoch" in line)
    first.one_worker().kill()
    first.read_until(lambda line: "trial 1" in line and " starts: " in line)
    _kill_after(first, chance, lines=chance.randint(1, 3))
    last = Search("--resume", "--output", str(output))
    assert last.end() == 0, last.text
    assert _rows(output) == expected
    assert _weights(output) == _weights(tmp_path / "undisturbed") != {}


@pytest.mark.timeout(2400)
def test_all_processes_killed_at_ten_random_moments_give_the_undisturbed_run(tmp_path: Path) -> None:
    expected = _undisturbed(tmp_path / "undisturbed", *LONG)
    assert {row[3] for row in expected} >= {TrialState.COMPLETE, TrialState.STOPPED}
    assert Origin.REFINEMENT in {row[2] for row in expected}

    chance, output = random.Random(7), tmp_path / "killed"
    for kill in range(10):
        search = Search(*(LONG if kill == 0 else ["--resume"]), "--output", str(output))
        _kill_after(search, chance, lines=chance.randint(1, 8))
    last = Search("--resume", "--output", str(output))
    assert last.end() == 0, last.text
    assert _rows(output) == expected
    assert _weights(output) == _weights(tmp_path / "undisturbed") != {}


@pytest.mark.timeout(2400)
def test_workers_killed_at_ten_random_moments_leave_every_trial_complete_and_counted_once(tmp_path: Path) -> None:
    """Two at a time. A trial that is killed more often than it is retried is run again on resume."""
    chance = random.Random(11)
    flags = ("--concurrency", "2", "--trials", "10", "--epochs", "4", "--final-share", "0", "--speed", "none", "--forms", "none")
    search = Search(*SEARCH, *flags, "--output", str(tmp_path))
    killed = set()
    for number in range(10):
        search.read_until(lambda line, number=number: f"trial {number}" in line and "epoch" in line)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.7))
        worker = chance.choice(search.some_workers(most=2))
        worker.kill()
        killed.add(worker.pid)
    assert search.end() == 0, search.text
    assert len(killed) == 10
    last = Search("--resume", "--output", str(tmp_path))
    assert last.end() == 0, last.text
    rows = _rows(tmp_path)
    assert [row[0] for row in rows] == list(range(10))
    assert {row[3] for row in rows} == {TrialState.COMPLETE}, search.text
