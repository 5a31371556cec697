"""Every flag that a message of the packages below the command line names is one of a command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

import autoslim
from autoslim.cli.app import app


def _flags(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for below in getattr(command, "commands", {}).values():
        yield from _flags(below)


FLAGS = frozenset(_flags(typer.main.get_command(app)))


@pytest.mark.parametrize("package", ["core", "data", "models", "search"])
def test_a_flag_that_is_named_is_there(package: str) -> None:
    files = sorted(Path(autoslim.__file__).parent.joinpath(package).rglob("*.py"))
    named = {flag for file in files for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", file.read_text())}
    assert named
    assert named <= FLAGS, sorted(named - FLAGS)
