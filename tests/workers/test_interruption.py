"""Ctrl-C and kill -9 in the middle of a search, then `--resume`."""

from __future__ import annotations

import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from workers_command import SEARCH, Search

from autoslim.result import TrialState
from autoslim.store import JobState, Store, default_url

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(560)]


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
    second.read_until(lambda line: "trial 4" in line and "begins" in line)
    second.kill_all()
    after_second = _finished(output)
    assert set(after_first) <= set(after_second)

    third = Search("--resume", "--output", str(output))
    assert third.end() == 0, third.text
    for number in after_second:
        assert f"trial {number} (" not in third.text.replace(" same recipe", ""), f"trial {number} was run again:\n{third.text}"

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
