"""`autoslim init`: a job file that explains every setting, made from the spec's fields."""

from __future__ import annotations

import shlex
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer
import yaml

from autoslim.config import Commands, Group, JobSpec, Setting, settings_of
from autoslim.config.schema import FILE as SCHEMA
from autoslim.errors import OutputError, RequestError

_WIDTH = 100


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; `-` is stdout.")] = Path("job.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a job file that explains every setting.

    Example: autoslim init && autoslim plan job.yaml
    """
    text = commented_file()
    if str(file) == "-":
        sys.stdout.write(text)
        return
    if file.exists() and not force:
        raise RequestError(f"{file} exists; name another file, or give --force")
    try:
        file.write_text(text, encoding="utf-8")
        (file.parent / SCHEMA.name).write_bytes(SCHEMA.read_bytes())
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}") from error
    sys.stdout.write(f"{file}\n")
    pasted = shlex.quote(str(file))
    sys.stderr.write(f"Next: autoslim plan {pasted} | autoslim search {pasted} | autoslim submit {pasted} --wait\n")


def commented_file(model: type[JobSpec] = JobSpec) -> str:
    """Settings with an example are set to it; all others are commented out and show their default."""
    lines = [
        # Beside the file: an address on the machine that wrote it would mean nothing on another one.
        f"# yaml-language-server: $schema={SCHEMA.name}",
        "# A job file of autoslim. Lines that are commented out show the defaults.",
        "",
    ]
    settings = [setting for setting in settings_of(model).values() if setting.rules.commands is not Commands.NONE]
    for group in Group:
        members = [setting for setting in settings if setting.rules.group is group]
        lines += [f"# --- {group} ---", ""] if members else []
        for setting in members:
            lines += [*_comment(setting), _assignment(setting), ""]
    return "\n".join(lines)


def _comment(setting: Setting) -> list[str]:
    allowed = f" Allowed: {setting.allowed}." if setting.allowed else ""
    default = f" Default: {setting.rules.shown_default}." if setting.rules.shown_default else ""
    return [f"# {line}" for line in textwrap.wrap(setting.help + allowed + default, _WIDTH)]


def _assignment(setting: Setting) -> str:
    example = setting.rules.example
    value = setting.default if example is None else example
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=_WIDTH).removesuffix("...\n").rstrip()
    return f"{'# ' if example is None else ''}{setting.name}: {text}"
