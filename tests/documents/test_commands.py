"""The page of the commands is made from the code when the site is built: it has every command, in its group, with every example."""

from __future__ import annotations

import inspect
import shlex
import sys

import pytest
from helpers.command_line import COMMANDS, parse
from helpers.documents import ROOT

EXAMPLES = [
    (name, " ".join(part.removeprefix("Example:").split()))
    for name, command in COMMANDS.items()
    for part in inspect.cleandoc(command.help or "").split("\n\n")
    if part.startswith("Example:")
]


@pytest.fixture(scope="module")
def page() -> str:
    sys.path.insert(0, str(ROOT / "docs" / "_generate"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    return str(reference.cli())


def test_the_page_is_made_anew_with_the_site() -> None:
    assert "<!-- made from the code: cli -->" in (ROOT / "docs" / "reference" / "cli.md").read_text()


def test_every_command_has_a_section_and_no_other(page: str) -> None:
    sections = [line.removeprefix("### autoslim ") for line in page.splitlines() if line.startswith("### ")]
    assert sorted(sections) == sorted(COMMANDS)


def test_every_command_is_in_a_group(page: str) -> None:
    assert "## Other" not in page


def test_every_command_has_an_example_on_the_page_that_parses(page: str) -> None:
    assert {name for name, _ in EXAMPLES} == COMMANDS.keys()
    for name, example in EXAMPLES:
        section = page.partition(f"### autoslim {name}\n")[2].partition("\n### ")[0]
        assert f"\n{example}\n" in section, name
        for line in example.split(" && "):
            parse(shlex.split(line))
