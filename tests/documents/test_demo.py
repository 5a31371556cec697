"""`make demo` says what it does before it installs anything, plans what it searches, and ends with three lines to type."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from helpers.command_line import parse
from helpers.documents import ROOT


def recipe(environment: Path) -> list[str]:
    """The commands of the demo in an environment that may be there or not, continued lines joined."""
    command = ["make", "--dry-run", "demo", f"VENV={environment}", "DEMO_OUTPUT=runs/demo"]
    # Under `make test` this is a make in a make, which would say which directory it enters and leaves.
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=60, env=outside)
    return done.stdout.replace("\\\n", " ").splitlines()


def test_the_first_lines_say_what_comes_before_anything_is_installed(tmp_path: Path) -> None:
    commands = recipe(tmp_path / "venv")
    installs = next(number for number, line in enumerate(commands) if "-m venv" in line)
    said = [line for line in commands[:installs] if "echo" in line]
    assert "70 %, 50 % and 40 %" in "".join(said)
    assert "First autoslim is installed into" in said[0]


def test_what_is_planned_is_what_is_searched(tmp_path: Path) -> None:
    planned, searched = (
        parse(["autoslim", *shlex.split(line)[1:]])
        for line in (text.partition(" | ")[0] for text in recipe(tmp_path) if re.search(r"/bin/autoslim (plan|search)", text))
    )
    assert {name: value for name, value in searched.items() if name != "resume"} == planned


def test_the_last_three_lines_are_the_next_to_type(tmp_path: Path) -> None:
    last = [shlex.split(line) for line in recipe(tmp_path)[-3:]]
    assert [words[0] for words in last] == ["echo"] * 3
    activate, *commands = [words[1] for words in last]
    assert activate == f"source {tmp_path}/bin/activate"
    for command in commands:
        assert parse(shlex.split(command))
