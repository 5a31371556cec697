"""Work that advances is not idle, and neither is who waits for another process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from helpers.signs_of_life import counted_marks

from autoslim.core import activity, file_lock


def test_idle_are_the_seconds_since_the_last_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "_marked", time.monotonic() - 1000)
    assert activity.idle_seconds() >= 1000
    activity.mark()
    assert activity.idle_seconds() < 1000


def test_who_waits_for_a_lock_gives_signs_of_life_until_it_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lock, "_LOOK_SECONDS", 0.01)
    path, order = tmp_path / "lock", list[str]()

    def wait() -> None:
        with file_lock.file_lock(path):
            order.append("second")

    with file_lock.file_lock(path):
        marks = counted_marks(monkeypatch)
        waiting = threading.Thread(target=wait)
        waiting.start()
        deadline = time.monotonic() + 10
        while len(marks) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
