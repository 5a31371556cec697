"""From a command line to a `JobSpec` and a `Placement`. Layers: defaults, a job file, AUTOSLIM_* of the environment, flags."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import typer

from autoslim.config import (
    JobSpec,
    Placement,
    Setting,
    SpecError,
    TrialPlacement,
    ValidationIssue,
    flag_name,
    flag_of,
    parse_yaml,
    read_mapping,
    read_text,
    settings_of,
    validated,
    variable_name,
)
from autoslim.core.job import SearchJob
from autoslim.errors import RequestError

P = TypeVar("P", bound=TrialPlacement)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CliInput:
    """The values of parameters: `flags` from this command line, `environment` from AUTOSLIM_* where no flag is given."""

    flags: dict[str, Any]
    environment: dict[str, Any]

    @classmethod
    def of(cls, context: typer.Context) -> CliInput:
        found: dict[str, dict[str, Any]] = {"COMMANDLINE": {}, "ENVIRONMENT": {}}
        for name, value in context.params.items():
            source = context.get_parameter_source(name)
            if source is not None and source.name in found and value is not None:
                found[source.name][name] = _lines_of(name) if source.name == "ENVIRONMENT" and _has_lines(name, value) else value
        return cls(flags=found["COMMANDLINE"], environment=found["ENVIRONMENT"])

    @property
    def all(self) -> dict[str, Any]:
        return {**self.environment, **self.flags}

    def parameter(self, setting: Setting) -> str:
        """The flag that was given for a setting: its own, or a shortcut."""
        shortcuts = [shortcut.name for shortcut in setting.rules.shortcuts if self.all.get(shortcut.name)]
        return shortcuts[0] if shortcuts and setting.name not in self.all else setting.name

    def name(self, setting: Setting) -> str:
        """What the user wrote for a setting: `--batch-size`, or the variable."""
        parameter = self.parameter(setting)
        if parameter in self.environment and parameter not in self.flags:
            return f"{variable_name(parameter)} in the environment"
        return flag_name(parameter)


def _has_lines(name: str, value: Any) -> bool:
    """Whether the value is a list whose variable has an entry in each line."""
    setting = settings_of(JobSpec).get(name)
    return isinstance(value, list | tuple) and setting is not None and setting.rules.one_a_line


def _lines_of(name: str) -> list[str]:
    # Typer has split the variable at every space, which names and paths may have.
    return os.environ[variable_name(name)].splitlines()


def spec_of(cli_input: CliInput, file: Path | None) -> JobSpec:
    """Raises SpecError that names the flag, the variable, or the file's line, with the value and what is allowed."""
    changes = fields_of(cli_input, JobSpec)
    try:
        return read_mapping(changes) if file is None else parse_yaml(read_text(file), source=str(file), changes=changes)
    except SpecError as error:
        raise SpecError(error.issues, name=lambda issue: _name(issue, cli_input, changes, file)) from None


def fields_of(cli_input: CliInput, model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """The model's fields that flags and variables set.

    Raises:
        RequestError: for a flag together with its shortcut, and for text that cannot be parsed.
    """
    values: dict[str, Any] = {}
    for setting in settings_of(model).values():
        parameter = cli_input.parameter(setting)
        given = [shortcut for shortcut in setting.rules.shortcuts if cli_input.all.get(shortcut.name)]
        if given and setting.name in cli_input.all:
            raise RequestError(f"{setting.flag} and {given[0].flag} exclude each other")
        if given:
            values[setting.name] = given[0].value
        elif parameter in cli_input.all:
            values[setting.name] = _parsed(setting, cli_input)
    return values


def placement_of(cli_input: CliInput, output: Path) -> Placement:
    """Raises SpecError that names the flag or the variable."""
    return read_placement(Placement, cli_input, output=str(output.absolute()))


def read_placement(model: type[P], cli_input: CliInput, **more: Any) -> P:
    """A placement from flags, variables and `more`, which has the fields that a subclass adds.

    Raises:
        RequestError: names the flag or the variable, the value and what is allowed.
    """
    declared = Placement if issubclass(model, Placement) else TrialPlacement
    values, settings = {**fields_of(cli_input, declared), **more}, settings_of(declared)
    try:
        return validated(model, lambda: model.model_validate(values))
    except SpecError as error:

        def name(issue: ValidationIssue) -> str:
            field = str(issue.place[0])
            return cli_input.name(settings[field]) if field in settings else flag_name(field)

        raise error.named(name) from None


def new_job(cli_input: CliInput, file: Path | None, output: Path) -> SearchJob:
    """Raises RequestError that names the flag, its value and what is allowed."""
    placement = placement_of(cli_input, output)
    spec = spec_of(cli_input, file)
    return spec.to_job(id=spec.new_id(), placement=placement)


def _parsed(setting: Setting, cli_input: CliInput) -> Any:
    value, parse = cli_input.all[setting.name], setting.rules.parse
    if parse is None:
        return value
    try:
        return parse(value)
    except RequestError as error:
        raise RequestError(f"{cli_input.name(setting)}: {error}") from error


def _name(issue: ValidationIssue, cli_input: CliInput, changes: dict[str, Any], file: Path | None) -> str:
    if not issue.place:
        return str(file) if file is not None else flag_of(issue)
    setting = settings_of(JobSpec).get(str(issue.place[0]))
    if setting is not None and (file is None or setting.name in changes):
        return cli_input.name(setting)
    return f"{file}{'' if issue.line is None else f', line {issue.line}'}: {issue.field}"
