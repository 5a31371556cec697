"""The supervisor's heartbeat: what a probe sees of one that works, waits, fails or hangs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.supervised import PlacingExecutor, Site

from autoslim.core.urls import default_url
from autoslim.errors import OutputError
from workers.service.heartbeat import Heartbeat
from workers.service.stop_request import StopRequest
from workers.service.supervisor import Supervisor
from workers.service.supervisor_lock import SupervisorLock


class Beats:
    """Asks to stop at the beat `last`."""

    def __init__(self, *, last: int) -> None:
        self.stop, self.count, self._last = StopRequest(), 0, last

    def __call__(self) -> None:
        self.count += 1
        self.stop.requested = self.count == self._last


@pytest.mark.parametrize("reachable", [True, False])
def test_every_round_beats_also_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reachable: bool):
    beats = Beats(last=2)
    with Site(default_url(tmp_path), tmp_path, monkeypatch) as site:
        executor = PlacingExecutor(site.settings, nodes=True)
        # The end of a supervisor ends its drivers, of which there are none.
        monkeypatch.setattr(executor, "close", lambda: None)
        executor.reachable = reachable
        Supervisor(site.queue, executor, max_drivers=1, lease_seconds=30.0, round_seconds=0.01, stop=beats.stop, beat=beats).run()
    assert beats.count == 2


def test_a_supervisor_that_waits_for_another_beats(tmp_path: Path):
    alone, waits = Beats(last=1), Beats(last=2)
    with SupervisorLock(tmp_path) as lock:
        assert lock.acquire(alone.stop, 1, beat=alone)
        second = SupervisorLock(tmp_path)
        assert not second.acquire(waits.stop, 1, beat=waits)
    assert (alone.count, waits.count) == (0, 2)


def test_a_beat_changes_the_time_of_the_file_and_an_earlier_process_leaves_none(tmp_path: Path):
    file = tmp_path / "heartbeat"
    file.touch()
    heart = Heartbeat(file)
    assert not file.exists()
    heart.beat()
    assert file.stat().st_size == 0
    os.utime(file, (0, 0))
    heart.beat()
    assert file.stat().st_mtime > 0


def test_what_is_no_heartbeat_is_refused_and_kept(tmp_path: Path):
    file = tmp_path / "results.csv"
    file.write_text("1,2\n")
    for place in (file, tmp_path):
        with pytest.raises(OutputError, match="is there and is no empty file"):
            Heartbeat(place)
    assert file.read_text() == "1,2\n"


def test_a_file_that_cannot_be_written_is_refused_at_the_start_and_logged_once_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(OutputError, match=r"--heartbeat .*/missing/heartbeat cannot be written"):
        Heartbeat(tmp_path / "missing" / "heartbeat")
    folder = tmp_path / "folder"
    folder.mkdir()
    heart = Heartbeat(folder / "heartbeat")
    folder.rmdir()
    for _ in range(3):
        heart.beat()
    assert caplog.text.count("cannot be written") == 1
