"""`--help` of every command and of every group of commands begins with what it does and an example that can be typed."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from helpers.command_line import COMMANDS, parse

from autoslim.cli.app import app


def groups(command: Any, name: str = "autoslim") -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        yield name, command
        for inner, each in command.commands.items():
            yield from groups(each, f"{name} {inner}")


EVERY = {f"autoslim {name}": command for name, command in COMMANDS.items()} | dict(groups(typer.main.get_command(app)))


@pytest.mark.parametrize("name", EVERY)
def test_help_begins_with_an_example_of_the_command(name: str) -> None:
    about, *rest = inspect.cleandoc(EVERY[name].help or "").split("\n\n")
    assert re.fullmatch(r"[A-Z].*\.", about, flags=re.DOTALL)
    examples = [part.removeprefix("Example: ") for part in rest if part.startswith("Example: ")]
    assert rest[: len(examples)] == [f"Example: {command}" for command in examples]
    assert examples
    assert any(re.match(rf"{name}\b", command.strip()) for command in examples[0].split("&&")), examples


@pytest.mark.parametrize("name", EVERY)
def test_examples_can_be_typed(name: str) -> None:
    for example in re.findall(r"^ *Example: (.*)$", EVERY[name].help or "", flags=re.MULTILINE):
        for command in example.split("&&"):
            assert parse(shlex.split(command)) is not None
