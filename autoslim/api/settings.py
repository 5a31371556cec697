"""Keyword arguments as the settings of a job: those of the command line, under their names with underscores."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from autoslim.config import Commands, JobSpec, Placement, Setting, read_mapping, settings_of, validated
from autoslim.config.resumed import resumed
from autoslim.core.job import SearchJob
from autoslim.errors import RequestError

P = ParamSpec("P")
R = TypeVar("R")

_PLACEMENT = {name: each for name, each in settings_of(Placement).items() if each.rules.commands is not Commands.NONE}


def new_job(values: Mapping[str, Any], output: Path) -> SearchJob:
    """Raises SpecError that names every argument that is wrong, its value and what is allowed."""
    spec, placement = _read(values, output)
    return spec.to_job(id=spec.new_id(), placement=placement)


def resumed_job(started: SearchJob, values: Mapping[str, Any], output: Path) -> SearchJob:
    """The job as it was started, with what may change taken from `values`.

    Raises:
        RequestError: when an argument differs from a setting that a resumed search keeps.
    """
    spec, placement = _read(values, output)
    return resumed(started, spec, spec.model_fields_set, placement, name=lambda setting: setting.name)


def check_names(values: Mapping[str, Any], commands: Commands, *, placement: bool) -> None:
    """Raises RequestError for settings that these commands do not have: they would change nothing."""
    known = {name for name, each in settings_of(JobSpec).items() if each.is_of(commands)} | (
        set(_PLACEMENT) if placement else set()
    )
    known |= {shortcut.name for each in settings_of(JobSpec).values() for shortcut in each.rules.shortcuts}
    for name in values:
        if name not in known:
            raise RequestError(f"{name} is no setting of this function; allowed: {', '.join(sorted(known))}")


def with_settings(commands: Commands, *, placement: bool) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lists the settings of these commands in the signature of a function that takes `**settings`, for `help` and completion."""

    def give(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {parameter.name for parameter in own}
        settings = [each for each in settings_of(JobSpec).values() if each.is_of(commands)]
        settings += _PLACEMENT.values() if placement else ()
        more = [_parameter(each) for each in settings if each.name not in names]
        function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return function

    return give


def _parameter(setting: Setting) -> inspect.Parameter:
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=setting.default)


def _read(values: Mapping[str, Any], output: Path) -> tuple[JobSpec, Placement]:
    given = _without_shortcuts({name: _plain(value) for name, value in values.items()})
    placed = {name: given.pop(name) for name in _PLACEMENT if name in given}
    spec = read_mapping(given)
    return spec, validated(Placement, lambda: Placement.model_validate({**placed, "output": str(output)}))


def _without_shortcuts(values: dict[str, Any]) -> dict[str, Any]:
    """`from_scratch=True` is `weights="scratch"`."""
    for setting in settings_of(JobSpec).values():
        for shortcut in setting.rules.shortcuts:
            if not values.pop(shortcut.name, False):
                continue
            if setting.name in values:
                raise RequestError(f"{setting.name} and {shortcut.name} exclude each other")
            values[setting.name] = shortcut.value
    return values


def _plain(value: Any) -> Any:
    """Paths as text, and sequences as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value
