"""The live display on a pseudo-terminal: bars stay at the bottom, and whatever others write scrolls above them in whole lines."""

from __future__ import annotations

import json
import sys

import pytest
from helpers.screen import Seen, run_on_terminal

PROGRAM = """
import json, logging, os, signal, subprocess, sys, time, warnings
logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
from autoslim.progress.choice import terminal_display
from autoslim.progress.status import Bar, Status

mode, end = sys.argv[1:]
prints = os.isatty(1)
with terminal_display(mode) as display:
    for epoch in (1, 2):
        facts = (f"{epoch}/5 epochs", "loss 0.812", "71.4%", "352 images/s")
        running = tuple(Bar(name=f"trial {n} width 50%", done=epoch, total=5, facts=facts) for n in range(2))
        display.show(Status(running=running, results=(("best 50%", "73.1% at 91M"),), overall=Bar(name="3 of 9 trials", done=3, total=9)))
        time.sleep(0.4)
    logging.getLogger("ray").warning("a worker died")
    warnings.warn("this is old")
    os.write(2, b"half a line, ")
    time.sleep(0.3)
    os.write(2, b"and its end from outside of Python\\n")
    subprocess.run(["sh", "-c", "echo from a child >&2"])
    os.write(2, b"10%\\r20%\\rall of a foreign bar\\n")
    if prints:
        print("printed " + "x" * 100, flush=True)
    display.detail("trial 1 epoch 2/5")
    display.line("trial 2 ends: accuracy 71.4%", status=" | about 5m left")
    time.sleep(0.6)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "interrupted":
        raise KeyboardInterrupt
    if end == "raised":
        raise ValueError("what went wrong")
print(json.dumps({"result": 1}))
"""
FOREIGN = (
    "WARNING ray: a worker died",
    "half a line, and its end from outside of Python",
    "from a child",
    "all of a foreign bar",
)


def run(mode: str, end: str = "well", *, columns: int = 80, **more: str | bool) -> Seen:
    return run_on_terminal([sys.executable, "-c", PROGRAM, mode, end], columns=columns, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("columns", [80, 200])
def test_bars_stay_below_and_foreign_lines_scroll_whole(columns: int) -> None:
    seen = run("auto", "killed", columns=columns)
    lines = [line for line in seen.lines if line]
    assert [line.split("  ")[0] for line in lines[-4:]] == ["trial 0 width 50%", "trial 1 width 50%", "best 50%", "3 of 9 trials"]
    assert all("2/5 epochs" in line and "loss 0.812" in line for line in lines[-4:-2])
    above = lines[:-4]
    assert [line for line in above if "━" in line or "best 50%" in line] == []
    assert [above.count(line) for line in FOREIGN] == [1] * len(FOREIGN)
    assert any("this is old" in line for line in above)
    assert "printed " + "x" * 100 in "".join(above)
    # The display's own lines may pass those that it has yet to read.
    assert sum(line.endswith("trial 2 ends: accuracy 71.4%") for line in above) == 1
    assert not any("trial 1 epoch" in line for line in above)
    assert max(map(len, lines)) <= columns


ENDS = """
import os, signal, time
from autoslim.progress.choice import terminal_display
from autoslim.progress.status import Bar, Status

with terminal_display("live") as display:
    display.show(Status(running=(Bar(name="trial 7 sit"), Bar(name="trial 8 width"))))
    time.sleep(0.4)
    display.show(Status(running=(Bar(name="trial 8 width"),)))
    display.line("trial 7 ends")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_below_the_line_of_an_end_the_bar_is_gone() -> None:
    lines = [line for line in run_on_terminal([sys.executable, "-c", ENDS], columns=80).lines if line]
    assert lines[-2].endswith("trial 7 ends")
    assert lines[-1].startswith("trial 8 width")
    assert not any(line.startswith("trial 7 sit") for line in lines)


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize("end", ["well", "interrupted", "raised"])
def test_at_the_end_the_bars_are_gone_and_the_cursor_is_back(end: str) -> None:
    seen = run("live", end)
    assert not [line for line in seen.lines if "━" in line or "of 9 trials" in line]
    assert seen.raw.rindex("\x1b[?25h") > seen.raw.rindex("\x1b[?25l")
    assert (seen.code == 0) is (end == "well")
    said = {"well": '{"result": 1}', "interrupted": "KeyboardInterrupt", "raised": "ValueError: what went wrong"}[end]
    assert [line for line in seen.lines if line][-1] == said


def test_what_goes_to_a_pipe_on_stdout_is_the_result_alone() -> None:
    seen = run("auto", piped_stdout=True)
    assert json.loads(seen.stdout) == {"result": 1}
    assert seen.stdout.count("\n") == 1
    assert "from a child" in seen.lines


def test_without_colours_bars_have_none() -> None:
    assert "\x1b[?25l" in (raw := run("auto", NO_COLOR="1").raw)
    assert "\x1b[3" not in raw


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize(("mode", "environment"), [("auto", {"TERM": "dumb"}), ("live", {"TERM": "dumb"}), ("plain", {})])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(mode: str, environment: dict[str, str]) -> None:
    seen = run(mode, **environment)
    assert "\x1b" not in seen.raw
    assert any(line.endswith("trial 2 ends: accuracy 71.4% | about 5m left") for line in seen.lines)
    assert any(line.endswith("trial 1 epoch 2/5") for line in seen.lines)


def test_none_shows_nothing_of_its_own() -> None:
    seen = run("none")
    assert not [line for line in seen.lines if "trial" in line]
