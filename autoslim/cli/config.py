"""`autoslim config show`: what a command would use, and where each value comes from."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.cli import flags as flag
from autoslim.cli.parsing import CliInput, fields_of, placement_of, spec_of
from autoslim.cli.table import columns, styled
from autoslim.config import PREFIX, Commands, JobSpec, Placement, Setting, read_plain, settings_of
from autoslim.core.extras import needs_extra

app = typer.Typer(
    help="Show the settings that a command would use.\n\nExample: autoslim config show job.yaml --resolved", no_args_is_help=True
)

Row = tuple[str, Any, str]
"""Name, value, and where the value comes from."""


@app.command()
@needs_extra("client", "autoslim config show")
@flag.with_flags(flag.job_flags(Commands.SUBMIT), flag.placement_flags())
def show(
    context: typer.Context,
    file: flag.JobFile = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Include defaults.")] = False,
    json: flag.Json = False,
) -> None:
    """Show the settings that `search` or `submit` would use with this file, these flags and this environment, and the source of each.

    Example: autoslim config show job.yaml --resolved
    """
    from autoslim.client.address import find_address

    rows = _spec(CliInput.of(context), file) + _placement(CliInput.of(context))
    address = find_address()
    rows.append(("url", address.url, _plain(address.sources[0])))
    rows.append(("key", None if address.key is None else "set, not shown", _plain(address.sources[1])))
    if not resolved:
        rows = [row for row in rows if row[2] != "default"]
    if json:
        sys.stdout.write(json_format.dumps({name: {"value": value, "from": source} for name, value, source in rows}) + "\n")
        return
    table = [(name, "-" if value is None else _text(value), styled(f"# {source}", "dim")) for name, value, source in rows]
    sys.stdout.write("\n".join(columns(table)) + "\n")


def _spec(cli_input: CliInput, file: Path | None) -> list[Row]:
    """Validated as a request if everything required is there; a required field that is missing is listed without a value."""
    given = fields_of(cli_input, JobSpec)
    in_file = {} if file is None else read_plain(file)
    values = {**in_file, **given}
    settings = settings_of(JobSpec).values()
    if all(setting.name in values for setting in settings if setting.needed):
        values = spec_of(cli_input, file).model_dump(mode="json")
    rows: list[Row] = []
    for setting in settings:
        if setting.name in given:
            rows.append((setting.name, values[setting.name], _source(setting, cli_input)))
        elif setting.name in in_file:
            rows.append((setting.name, values[setting.name], str(file)))
        else:
            rows.append((setting.name, setting.default, "needed" if setting.needed else "default"))
    return rows


def _placement(cli_input: CliInput) -> list[Row]:
    from autoslim.core.urls import hide_password

    placement = placement_of(cli_input, Path())
    rows: list[Row] = []
    for setting in settings_of(Placement).values():
        if setting.rules.commands is not Commands.NONE:
            value = getattr(placement, setting.name)
            shown = value if value is None or isinstance(value, int) else hide_password(str(value))
            rows.append((setting.name, shown, _source(setting, cli_input)))
    return rows


def _source(setting: Setting, cli_input: CliInput) -> str:
    parameter = cli_input.parameter(setting)
    if parameter in cli_input.flags:
        return "flag"
    return "environment" if parameter in cli_input.environment else "default"


def _plain(source: str) -> str:
    return "environment" if source.startswith(PREFIX) else "default" if source == "none" else source


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_format.dumps(value)
