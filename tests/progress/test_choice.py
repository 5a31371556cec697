"""Which display there is: on a terminal, elsewhere, and in a notebook."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import pytest

from autoslim.errors import RequestError
from autoslim.progress.choice import python_display, terminal_display
from autoslim.progress.display import Display, LineDisplay
from autoslim.progress.notebook import NotebookDisplay
from autoslim.progress.preparing import Preparing
from autoslim.progress.status import Bar, Status


class Recorded(Display):
    def __init__(self) -> None:
        self.statuses: list[Status] = []

    def show(self, status: Status) -> None:
        self.statuses.append(status)


class Handle:
    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, page: str) -> None:
        self.shown.append(page)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """A notebook's kernel, as far as IPython shows it."""
    handle = Handle()
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    shell: Any = types.SimpleNamespace(kernel=object())
    vars(ipython).update(get_ipython=lambda: shell, display=display)
    vars(display).update(HTML=str, display=lambda page, **_: handle)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return handle


def test_where_stderr_is_no_terminal_each_event_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    display = terminal_display("auto")
    assert type(display) is LineDisplay
    with display:
        display.line("one", status=" | best")
        display.detail("two")
        display.show(Status(running=(Bar(name="three"),)))
    assert [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()] == ["one | best", "two"]


@pytest.mark.parametrize("choose", [terminal_display, python_display])
def test_another_mode_is_refused_with_those_that_there_are(choose: Any) -> None:
    with pytest.raises(RequestError, match=r"progress is 'tty'; allowed: auto, live, plain, none$"):
        choose("tty")
    assert type(choose("none")) is Display


def test_a_notebook_gets_bars_that_replace_each_other_and_lines_on_stdout(
    handle: Handle, capsys: pytest.CaptureFixture[str]
) -> None:
    display = python_display("auto")
    assert type(display) is NotebookDisplay
    with display:
        display.show(Status(running=(Bar(name="trial <3>", done=1, total=2, facts=("1/2 epochs",)),)))
        display.show(Status(running=(Bar(name="too soon"),)))
        display.line("trial 2 ends")
    (page, last) = handle.shown
    assert "trial &lt;3&gt;" in page
    assert "1/2 epochs" in page
    assert last == ""
    out, err = capsys.readouterr()
    assert out.endswith(" trial 2 ends\n")
    assert err == ""


def test_ipython_in_a_terminal_is_no_notebook(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: types.SimpleNamespace())
    assert type(python_display("auto")) is LineDisplay


def test_images_that_are_prepared_have_a_bar_with_the_time_left() -> None:
    now, display = [10.0], Recorded()
    watch = Preparing(display, clock=lambda: now[0])
    now[0] = 14.0
    watch(2_000, 10_000)
    assert display.statuses == [
        Status(running=(Bar(name="preparing images", done=2_000, total=10_000, facts=("2,000 of 10,000",)),), ends_at=30.0)
    ]
