"""A program in the background is found and ended by its process's identity, with what it has started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from workers.service import background_program
from workers.service.background_program import Program
from workers.service.process_identity import ProcessIdentity


def started(program: Program, script: str) -> int:
    return program.start(["sh", "-c", script], {})


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_written(path: Path) -> str:
    until(lambda: path.exists() and bool(path.read_text().strip()))
    return path.read_text().strip()


def test_a_program_ends_with_what_it_has_started(tmp_path):
    program = Program("sleeper", tmp_path / "programs")
    child = tmp_path / "child"
    # The shell ends at SIGTERM, its child does not.
    started(program, f"(trap '' TERM; exec sleep 60) & echo $! > {child}; exec sleep 60")
    left = ProcessIdentity.of(int(until_written(child)))
    assert program.is_alive()
    assert Program("sleeper", tmp_path / "programs").is_alive()
    with pytest.raises(RuntimeError, match="sleeper runs already; stop it first"):
        started(program, "true")
    program.stop()
    assert not program.is_alive()
    until(left.is_dead)
    program.stop()


@pytest.mark.parametrize("script", ["exec sleep 60", "trap '' TERM; echo deaf; while :; do sleep 1; done", "exit 3"])
def test_a_program_that_was_stopped_is_no_child_of_who_started_it_any_more(tmp_path, monkeypatch, script):
    monkeypatch.setattr(background_program, "_STOP_SECONDS", 0.1)
    program = Program("one", tmp_path / "programs")
    pid = started(program, script)
    if "deaf" in script:
        until_written(program.log)
    program.stop()
    assert not psutil.pid_exists(pid)


def test_a_program_that_has_exited_is_no_child_any_more_when_it_is_started_again(tmp_path):
    program = Program("short", tmp_path / "programs")
    first = started(program, "exit 3")
    until(lambda: not program.is_alive())
    second = started(program, "exec sleep 60")
    assert not psutil.pid_exists(first)
    program.stop()
    assert not psutil.pid_exists(second)


def test_the_exit_of_a_child_that_somebody_waits_for_is_left_to_them(tmp_path):
    child = subprocess.Popen(["sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    identity.replace(started="of another process with its number").reap()
    identity.reap()
    assert child.poll() is None
    child.communicate(b"\n")
    assert child.returncode == 3


def test_a_log_has_the_last_words_of_a_program(tmp_path):
    program = Program("short", tmp_path / "programs")
    assert program.tail() == ""
    started(program, "echo no such thing >&2; exit 3")
    until_written(program.log)
    assert program.tail(6) == "thing\n"
    program.stop()


def test_a_program_is_waited_for_until_it_is_ready(tmp_path):
    program = Program("sleeper", tmp_path / "programs")
    started(program, "exec sleep 60")
    answers = iter([False, True])
    program.wait_until(lambda: next(answers))
    assert list(answers) == []
    program.stop()


def test_one_that_exits_instead_is_told_with_its_last_words(tmp_path):
    program = Program("short", tmp_path / "programs")
    started(program, "echo no such thing >&2; exit 3")
    with pytest.raises(RuntimeError, match=r"short has exited(?s:.*)no such thing"):
        program.wait_until(lambda: False)
    program.stop()


def test_one_that_does_not_answer_in_time_is_told_with_its_last_words(tmp_path):
    program = Program("slow", tmp_path / "programs")
    started(program, "echo reading the disk; exec sleep 60")
    until_written(program.log)
    with pytest.raises(RuntimeError, match=r"slow does not answer(?s:.*)reading the disk"):
        program.wait_until(lambda: False, seconds=0)
    assert program.is_alive()
    program.stop()
