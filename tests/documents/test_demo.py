"""`make demo` says what it does, and how long, before it installs anything, and ends with three lines to type."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from helpers.command_line import parse
from helpers.documents import DOCUMENTS, ROOT


def recipe(environment: Path) -> list[str]:
    """The commands of the demo in an environment that may be there or not, continued lines joined."""
    command = ["make", "--dry-run", "demo", f"VENV={environment}", "DEMO_OUTPUT=runs/demo"]
    # Under `make test` this is a make in a make, which would say which directory it enters and leaves.
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=60, env=outside)
    return done.stdout.replace("\\\n", " ").splitlines()


def searched(commands: list[str]) -> dict[str, Any]:
    """The settings of the demo's search."""
    (line,) = [line for line in commands if re.search(r"/bin/autoslim search", line)]
    return parse(["autoslim", *shlex.split(line)[1:]])


def test_the_first_lines_say_what_comes_and_how_long_before_anything_is_installed(tmp_path: Path) -> None:
    commands = recipe(tmp_path / "venv")
    installs = next(number for number, line in enumerate(commands) if "-m venv" in line)
    told = " ".join(shlex.split(line)[1] for line in commands[:installs] if "echo" in line)
    assert f"autoslim and its packages are installed into {tmp_path / 'venv'}" in told
    assert " and ".join(f"at {budget.replace('%', ' %')}" for budget in searched(commands)["flops"]) in told
    assert re.search(r"about \w+ minutes on two slow cores", told)


def test_what_the_documents_use_of_the_demo_is_what_it_delivers(tmp_path: Path) -> None:
    used = {label for path in DOCUMENTS for label in re.findall(r"runs/demo/models/([\w%.-]+)", path.read_text())}
    assert used <= set(searched(recipe(tmp_path))["flops"])


def test_the_last_three_lines_are_the_next_to_type(tmp_path: Path) -> None:
    last = [shlex.split(line) for line in recipe(tmp_path)[-3:]]
    assert [words[0] for words in last] == ["echo"] * 3
    activate, *commands = [words[1] for words in last]
    assert activate == f"source {tmp_path}/bin/activate"
    for command in commands:
        assert parse(shlex.split(command))
