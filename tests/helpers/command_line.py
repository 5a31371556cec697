"""Command lines of documents and manifests, held against the real command line without running anything."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from autoslim.cli.app import app


def _commands(group: Any, prefix: str = "") -> dict[str, Any]:
    """By name; those of a group by both: `config show`."""
    found = {}
    for name, command in group.commands.items():
        found |= _commands(command, f"{name} ") if hasattr(command, "commands") else {prefix + name: command}
    return found


COMMANDS: dict[str, Any] = _commands(typer.main.get_command(app))


def parse(words: list[str]) -> dict[str, Any]:
    """The values of `autoslim COMMAND ...`; an unknown command or flag, or a value of the wrong kind, is an error."""
    program, *arguments = words
    assert program == "autoslim", words
    length = 1 if arguments[0] in COMMANDS else 2
    command = " ".join(arguments[:length])
    with COMMANDS[command].make_context(command, arguments[length:]) as context:
        return dict(context.params)


def blocks(markdown: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages, indentation taken off; not those that say more (`python no-run`)."""
    found = re.findall(r"^( *)```(\w*)([^`\n]*)\n(.*?)^\1```$", markdown, flags=re.MULTILINE | re.DOTALL)
    return [
        re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        for indent, language, more, text in found
        if language in languages and not more.strip()
    ]


def shell_commands(markdown: str) -> Iterator[list[str]]:
    """Every command of the shell blocks as words, comments left out and continued lines joined."""
    for block in blocks(markdown, "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            # Where the output goes is the shell's to know.
            words = list(itertools.takewhile(lambda word: word not in (">", ">>", "|", "&&"), shlex.split(line, comments=True)))
            if words:
                yield words
