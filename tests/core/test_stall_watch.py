"""A process whose work hangs ends itself and says where; one that works, or has no work, does not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from autoslim.core import activity, stall_watch
from autoslim.core.stall_watch import StallWatch, has_stalled


def test_work_without_a_sign_of_life_for_longer_than_the_limit_ends_the_process_with_the_reason() -> None:
    ended: list[str] = []
    idle = 600.0
    watch = StallWatch(600.0, idle=lambda: idle, end=ended.append)
    with watch.working():
        watch.look()
        assert ended == []
        idle = 600.1
        watch.look()
    assert ended == ["stalled: no step, batch or other sign of life for 10.0 minutes (--stall-minutes 10)"]


@pytest.mark.parametrize("limit", [0.0, 1e9])
def test_work_within_the_limit_goes_on_and_without_one_for_ever(limit: float) -> None:
    watch = StallWatch(limit, idle=lambda: 1e6, end=pytest.fail)
    with watch.working():
        watch.look()


def test_a_process_that_waits_for_work_is_not_ended_however_long_it_waits() -> None:
    watch = StallWatch(1.0, idle=lambda: 1e6, end=pytest.fail)
    watch.look()
    with watch.working():
        pass
    watch.look()


def test_work_that_begins_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "_marked", activity._marked - 1e6)
    watch = StallWatch(1e5, end=pytest.fail)
    with watch.working():
        watch.look()


def test_a_limit_of_any_length_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    later, armed = stall_watch.faulthandler.dump_traceback_later, threading.Event()

    def arm(*arguments: Any, **named: Any) -> None:
        later(*arguments, **named)
        armed.set()

    monkeypatch.setattr(stall_watch.faulthandler, "dump_traceback_later", arm)
    monkeypatch.setattr(stall_watch, "_LOOK_SECONDS", 0.01)
    watch = StallWatch(1e12).start()
    assert armed.wait(10)
    watch.stop()


HANGS = """
import time
from autoslim.core.logs import bind, log_json
from autoslim.core.stall_watch import StallWatch

def wait_for_ever():
    time.sleep(60)

log_json()
bind(trial=7)
with StallWatch(0.2).start().working():
    wait_for_ever()
"""

HANGS_WITH_THE_INTERPRETER = """
import ctypes, threading
from autoslim.core import stall_watch

armed = threading.Event()
later = stall_watch.faulthandler.dump_traceback_later
def note(*arguments, **named):
    later(*arguments, **named)
    armed.set()
stall_watch.faulthandler.dump_traceback_later = note

def hold_it():
    # PyDLL does not release the interpreter's lock.
    ctypes.PyDLL(None).sleep(60)

stall_watch._LOOK_SECONDS, stall_watch._SPARE_SECONDS = 0.01, 1.0 - 3600.0
with stall_watch.StallWatch(3600.0).start().working():
    armed.wait()
    hold_it()
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)


def test_a_process_that_hangs_ends_with_a_line_in_its_log_and_the_stacks_of_its_threads() -> None:
    done = run(HANGS)
    assert done.returncode == os.EX_TEMPFAIL, done.stderr
    assert has_stalled(done)
    line, *stacks = done.stderr.splitlines()
    assert '"stalled: no step' in line
    assert '"trial": 7' in line
    assert any(" in wait_for_ever" in place for place in stacks)


def test_so_does_one_in_which_nothing_of_python_runs_any_more() -> None:
    done = run(HANGS_WITH_THE_INTERPRETER)
    assert done.returncode == 1, done.stderr
    assert has_stalled(done)
    assert "Timeout" in done.stderr
    assert " in hold_it" in done.stderr


def test_one_that_ends_with_an_error_has_not_hung() -> None:
    assert not has_stalled(subprocess.CompletedProcess([], 1, "", "Traceback\nTimeoutError: Timeout (of a server)"))
