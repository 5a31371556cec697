"""Tables are whole and plain in a pipe, and coloured on a terminal that wants colours."""

from __future__ import annotations

import io
import sys

import pytest

from autoslim.cli.table import STATE_STYLES, columns, state_text
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
