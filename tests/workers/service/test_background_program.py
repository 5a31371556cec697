"""A program in the background is found and ended by its process's identity, with what it has started."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

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
