"""Tables are whole and plain in a pipe, and coloured on a terminal that wants colours; one that is narrow breaks no word."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from autoslim.cli.table import STATE_STYLES, columns, paragraph, state_text
from autoslim.store import QueueState

ROWS = [("ID", "STATE", "NOTE"), ("1", state_text("FAILED"), "[bold] is text"), ("22", state_text("QUEUED"), "x" * 300)]
PLAIN = ["ID  STATE   NOTE", "1   FAILED  [bold] is text", f"22  QUEUED  {'x' * 300}"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    return columns(ROWS, header=True)


def test_in_a_pipe_a_row_is_one_plain_line_without_spaces_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert columns(ROWS, header=True) == PLAIN


def test_on_a_terminal_states_and_the_header_are_styled(monkeypatch: pytest.MonkeyPatch) -> None:
    head, failed, _ = on_a_terminal(monkeypatch)
    assert head.startswith("\x1b[2m")
    assert "\x1b[31mFAILED\x1b[0m" in failed


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_colours_gets_plain_text(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert on_a_terminal(monkeypatch, **{name: value}) == PLAIN


def test_every_state_of_a_job_has_a_style() -> None:
    assert STATE_STYLES.keys() == {str(state) for state in QueueState}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A terminal of 42 columns. Tests make it stdout themselves: pytest puts its own there when a test begins."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 42, 0, 0))
    monkeypatch.setenv("NO_COLOR", "1")
    with os.fdopen(slave, "w") as terminal:
        yield terminal
    os.close(master)


def test_a_narrow_terminal_gets_rows_in_several_lines_with_whole_words(narrow: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", narrow)
    rows = [("budget", "method", "test top-1, % (95 %)"), ("50%", "width+patch_slimming (trial 5)", "59.04 (51.4-66.2)")]
    assert columns(rows) == [
        "budget  method                test top-1,",
        "                              % (95 %)",
        "50%     width+patch_slimming  59.04",
        "        (trial 5)             (51.4-66.2)",
    ]


def test_a_number_and_its_percent_sign_are_not_parted(narrow: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", narrow)
    rows = [("budget", "method", "validation top-1, % (95 %)"), ("50%", "patch_slimming+merge", "47.92 (39.9-56)")]
    head = [line[30:] for line in columns(rows)[:3]]
    assert head == ["validation", "top-1, %", "(95 %)"]
    assert paragraph("An accuracy on them is known to within 10 % of it").splitlines()[1:] == ["  10 % of it"]


def test_a_row_whose_words_do_not_fit_is_left_to_the_terminal(narrow: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", narrow)
    assert columns([("x" * 30, "y" * 30)]) == [f"{'x' * 30}  {'y' * 30}"]


def test_prose_is_broken_between_words_and_a_pipe_gets_it_whole(narrow: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", narrow)
    text = "50%: test 59.04% (51.4% to 66.2%), 1.81 points below the dense model"
    assert paragraph(text) == "50%: test 59.04% (51.4% to 66.2%), 1.81\n  points below the dense model"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert paragraph(text) == text
