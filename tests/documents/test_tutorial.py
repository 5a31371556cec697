"""The tutorial's commands are understood, follow from each other, and are ones that a reader can paste."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from helpers.command_line import parse, shell_commands
from helpers.documents import ROOT, links

TUTORIAL = ROOT / "docs" / "tutorial.md"
COMMANDS = list(shell_commands(TUTORIAL.read_text()))
OURS = [words for words in COMMANDS if words[0] == "autoslim"]
WAY = ["plan", "search", "front", "pick", "export"]


def values(name: str) -> dict[str, Any]:
    """What is given to the first command of this name."""
    return next(parse(words) for words in OURS if words[1] == name)


@pytest.mark.parametrize("words", OURS, ids=lambda words: words[1])
def test_every_command_is_understood(words: list[str]) -> None:
    assert parse(words)


def test_nothing_else_is_typed_but_what_sets_up_and_runs_the_models_script() -> None:
    others = {words[0] for words in COMMANDS} - {"autoslim"}
    assert others <= {"git", "cd", "make", "source", "python"}


def test_the_way_leads_from_the_plan_to_the_file() -> None:
    names = [words[1] for words in OURS]
    assert [name for name in names if name in WAY] == WAY


def test_what_is_planned_is_searched_and_each_command_has_what_the_ones_before_made() -> None:
    planned, searched = values("plan"), values("search")
    assert all(searched[name] == planned[name] for name in ("model", "model_args", "image_size", "data", "flops", "from_scratch"))
    run = str(searched["output"])
    labels = {*searched["flops"], values("pick")["flops"]}
    assert {str(values(name)["output"]) for name in ("front", "pick")} == {run}
    typed = [word for words in COMMANDS for word in words if word.startswith(f"{run}/models/")]
    assert len(typed) >= 2
    assert {word.removeprefix(f"{run}/models/").partition("/")[0] for word in typed} <= labels
    assert values("export")["data"] == searched["data"]


def test_the_model_is_used_in_ten_lines() -> None:
    (block,) = re.findall(r"^```python no-run\n(.*?)^```$", TUTORIAL.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    assert f'"{values("search")["output"]}/models/' in block


def test_the_readme_and_the_site_lead_to_it() -> None:
    assert "docs/tutorial.md" in links(ROOT / "README.md")
    assert "- tutorial.md" in (ROOT / "mkdocs.yml").read_text()
    assert shlex.join(["make", "install"]) in {shlex.join(words) for words in COMMANDS}
