"""From a command line to a `JobSpec` and a `Placement`. Layers: defaults, a job file, AUTOSLIM_* of the environment, flags."""

from __future__ import annotations

import ast
import dataclasses
import re
import secrets
from pathlib import Path
from typing import Any

import typer

from autoslim.config import JobSpec, Placement, SpecError, ValidationIssue, flag_of, parse_yaml, read_mapping, read_text
from autoslim.core.job import Resources, SearchJob
from autoslim.errors import RequestError

PLACEMENT = ("resources", "concurrency", "address", "storage", "tracking_uri", "output")
"""What says where a job runs and not what it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CliInput:
    """What was typed, by parameter: `flags` on this command line, `environment` in AUTOSLIM_* where no flag says otherwise."""

    flags: dict[str, Any]
    environment: dict[str, Any]

    @classmethod
    def of(cls, context: typer.Context) -> CliInput:
        found: dict[str, dict[str, Any]] = {"COMMANDLINE": {}, "ENVIRONMENT": {}}
        for name, value in context.params.items():
            source = context.get_parameter_source(name)
            if source is not None and source.name in found and value is not None:
                found[source.name][name] = value
        return cls(flags=found["COMMANDLINE"], environment=found["ENVIRONMENT"])

    @property
    def all(self) -> dict[str, Any]:
        return {**self.environment, **self.flags}

    def name(self, field: str) -> str:
        """What the user wrote for a field: `--batch-size`, or the variable."""
        cli_input = "from_scratch" if field == "weights" and "weights" not in self.all else field
        flag = "--" + cli_input.replace("_", "-")
        return (
            f"AUTOSLIM_{cli_input.upper()} in the environment"
            if cli_input in self.environment and cli_input not in self.flags
            else flag
        )


def spec_of(cli_input: CliInput, file: Path | None) -> JobSpec:
    """Raises SpecError naming the flag, the variable, or the file's line, with the value and what is allowed."""
    changes = fields_of(cli_input)
    try:
        return read_mapping(changes) if file is None else parse_yaml(read_text(file), source=str(file), changes=changes)
    except SpecError as error:
        raise SpecError(error.issues, name=lambda issue: _name(issue, cli_input, changes, file)) from None


def fields_of(cli_input: CliInput) -> dict[str, Any]:
    """The fields of a spec that flags and variables say; flags that belong together are one field."""
    values = {name: value for name, value in cli_input.all.items() if name in JobSpec.model_fields}
    if cli_input.all.get("from_scratch"):
        if "weights" in values:
            raise RequestError("--weights and --from-scratch exclude each other")
        values["weights"] = "scratch"
    elif "weights" in values:
        values["weights"] = str(values["weights"])
    if "model_args" in values:
        values["model_args"] = parse_pairs(values["model_args"], cli_input.name("model_args"))
    return values


def placement_of(cli_input: CliInput, output: Path) -> Placement:
    """Raises RequestError naming the flag."""
    values = {name: value for name, value in cli_input.all.items() if name in PLACEMENT}
    if values.get("concurrency", 1) < 1:
        raise RequestError(f"{cli_input.name('concurrency')} is {values['concurrency']}; allowed: 1 and more")
    values["resources"] = parse_resources(values.get("resources"))
    return Placement(**{**values, "output": str(output.absolute())})


def new_job(cli_input: CliInput, file: Path | None, output: Path) -> SearchJob:
    """Raises RequestError naming the flag, its value and what is allowed."""
    placement = placement_of(cli_input, output)
    spec = spec_of(cli_input, file)
    return spec.to_job(id=job_id(spec), placement=placement)


def parse_pairs(text: str, flag: str) -> dict[str, Any]:
    """`depth=6,act_layer=relu` -> values as Python literals where they are, else as text."""
    pairs: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise RequestError(f"{flag}: {item!r} is not of the form name=value")
        try:
            pairs[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pairs[name] = value
    return pairs


def parse_resources(text: str | None) -> Resources | None:
    """`gpu=1,cpu=4`; None leaves it to the cluster."""
    return None if text is None else Resources.parse(text, "--resources")


def job_id(spec: JobSpec) -> str:
    """Told apart from others in one store, and readable."""
    stem = spec.name or re.sub(r"[^a-z0-9]+", "-", Path(spec.data).stem.lower()).strip("-")[:30] or "search"
    return f"{stem}-{secrets.token_hex(3)}"


def _name(issue: ValidationIssue, cli_input: CliInput, changes: dict[str, Any], file: Path | None) -> str:
    if not issue.place:
        return str(file) if file is not None else flag_of(issue)
    if file is None or issue.place[0] in changes:
        return cli_input.name(str(issue.place[0]))
    return f"{file}{'' if issue.line is None else f', line {issue.line}'}: {issue.field}"
