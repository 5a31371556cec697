"""`autoslim config show`: what a command would use, and where each value comes from."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.cli import flags as flag
from autoslim.cli.parsing import PLACEMENT, CliInput, fields_of, placement_of, spec_of
from autoslim.cli.table import columns, paint
from autoslim.config import JobSpec, read_plain

app = typer.Typer(help="What a command would use.", no_args_is_help=True)


@app.command()
@flag.with_flags(flag.SpecFlags, flag.PlacementFlags)
def show(
    context: typer.Context,
    file: flag.JobFile = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Defaults, too, and not only what was said.")] = False,
    json: flag.Json = False,
) -> None:
    """Show the values that `search` or `submit` would use with the same file, flags and environment, and where each comes from.

    Example: autoslim config show job.yaml --resolved
    """
    from autoslim.client.address import find_address

    rows = _spec(CliInput.of(context), file) + _placement(CliInput.of(context))
    address = find_address()
    rows.append(("url", address.url, _plain(address.origin[0])))
    rows.append(("key", None if address.key is None else "set, not shown", _plain(address.origin[1])))
    if not resolved:
        rows = [row for row in rows if row[2] != "default"]
    if json:
        sys.stdout.write(json_format.dumps({name: {"value": value, "from": origin} for name, value, origin in rows}) + "\n")
        return
    lines = columns([(name, "-" if value is None else _text(value), f"# {origin}") for name, value, origin in rows])
    sys.stdout.write("".join(_dimmed(line) + "\n" for line in lines))


Row = tuple[str, Any, str]


def _spec(cli_input: CliInput, file: Path | None) -> list[Row]:
    """Checked like a request, where it is one; what is needed and not said stands there without a value."""
    said = fields_of(cli_input)
    kept = {} if file is None else read_plain(file)
    values = {**kept, **said}
    if all(name in values for name, field in JobSpec.model_fields.items() if field.is_required()):
        values = spec_of(cli_input, file).model_dump(mode="json")
    rows = []
    for name, field in JobSpec.model_fields.items():
        if name in said:
            origin = "environment" if cli_input.name(name).startswith("AUTOSLIM_") else "flag"
            rows.append((name, values[name], origin))
        elif name in kept:
            rows.append((name, values[name], str(file)))
        else:
            value = None if field.is_required() else field.get_default(call_default_factory=True)
            rows.append((name, value, "needed" if field.is_required() else "default"))
    return rows


def _placement(cli_input: CliInput) -> list[Row]:
    """Checked like a request's."""
    from autoslim.core.urls import hide_password

    placement_of(cli_input, Path())
    rows: list[Row] = []
    for name in (name for name in PLACEMENT if name != "output"):
        origin = "flag" if name in cli_input.flags else "environment" if name in cli_input.environment else "default"
        value = cli_input.all.get(name)
        rows.append((name, hide_password(value) if isinstance(value, str) else value, origin))
    return rows


def _plain(origin: str) -> str:
    return "environment" if origin.startswith("AUTOSLIM_") else "default" if origin == "none" else origin


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_format.dumps(value)


def _dimmed(line: str) -> str:
    value, mark, origin = line.rpartition("# ")
    return value + paint(mark + origin, "dim")
