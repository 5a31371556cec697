"""A call of the faults or of the soak that was killed: the next one ends what it has left, and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from faults import leftovers
from faults.rows import keep_row, kept_rows


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(leftovers, "_PLACES", (str(tmp_path / "elsewhere"),))
    # Set, so that it is taken away again.
    monkeypatch.setenv(leftovers.MARK, "")


def sleeping(mark: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], env={**os.environ, leftovers.MARK: str(mark)}, start_new_session=True)


def test_processes_and_folders_of_a_killed_call_are_gone_and_those_of_others_are_not(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    with leftovers.claimed(mine):
        left = tmp_path / "elsewhere" / f"{leftovers.prefix()}abc"
    (left / "root").mkdir(parents=True)
    kept = tmp_path / "elsewhere" / "asf-of-another-folder"
    kept.mkdir()
    orphan, foreign = sleeping(mine), sleeping(other)
    try:
        with leftovers.claimed(mine):
            assert not psutil.pid_exists(orphan.pid)
            assert foreign.poll() is None
            assert (left.exists(), kept.exists()) == (False, True)
    finally:
        for process in (orphan, foreign):
            process.kill()
            process.wait()


def test_a_call_that_lives_is_left_alone(tmp_path: Path) -> None:
    with leftovers.claimed(tmp_path):
        code = f"from faults import leftovers; from pathlib import Path\nwith leftovers.claimed(Path({str(tmp_path)!r})): pass"
        path = os.pathsep.join([str(Path(leftovers.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
    assert done.returncode == 1
    assert "another call works in" in done.stderr


def test_sigterm_ends_a_call_in_order(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), leftovers.claimed(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_row_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert kept_rows(file) == []
    keep_row(file, {"number": 0})
    with file.open("a") as rows:
        rows.write('{"number": 1, "st')
    assert kept_rows(file) == [{"number": 0}]
    keep_row(file, {"number": 1})
    assert kept_rows(file) == [{"number": 0}, {"number": 1}]
