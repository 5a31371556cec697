"""`make` and pre-commit: what they list and what they run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
HELPERS = Path(__file__).parent / "helpers"
MAKEFILE = (ROOT / "Makefile").read_text()


def hooks() -> list[dict[str, Any]]:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    return repository["hooks"]


def test_the_hooks_are_the_checks_of_make_lint():
    (checks,) = re.findall(r"^lint: ([a-z ]+)##", MAKEFILE, re.MULTILINE)
    assert [hook["id"] for hook in hooks()] == checks.split()
    assert [hook["entry"].split() for hook in hooks()] == [["make", "--no-print-directory", hook["id"]] for hook in hooks()]


def test_the_hooks_fetch_nothing():
    assert {hook["language"] for hook in hooks()} == {"system"}


def test_make_help_lists_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    listed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("make ")}
    (targets,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert listed == set(targets.split())


def test_what_gives_the_mark_short_is_known_where_files_are_left_out():
    """Otherwise CI's second step would leave out a file of its own tests in silence."""
    (listed,) = re.findall(r"^SHORT_BY_NAME = \((.*)\)$", (HELPERS.parent / "conftest.py").read_text(), re.MULTILINE)
    known = set(re.findall(r"\w+", listed))
    given = re.compile(rf"mark\.short\b|\b({'|'.join(known)})\b")
    shared = [*HELPERS.glob("*.py"), *HELPERS.parent.glob("*/**/conftest.py")]
    assert {path.name for path in shared if given.search(path.read_text())} == {"marks.py", "session.py"}
    assert set(re.findall(r"^(?:def )?(\w+)(?=\(| = )", (HELPERS / "marks.py").read_text(), re.MULTILINE)) <= known | {
        "ONE_OF_A_KIND",
        "DISTINCT",
    }
