"""The flags that more than one command has. Those of settings are made from the fields of `JobSpec` and `Placement`."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.config import Commands, Group, JobSpec, Placement, Setting, TrialPlacement, settings_of, variable_name

JobFile = Annotated[Path | None, typer.Argument(metavar="JOB.YAML", help="A job file; flags replace its fields.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def flag(name: str, help: str, *short: str, **more: Any) -> Any:
    """`--batch-size`, which AUTOSLIM_BATCH_SIZE replaces where it is not given; `short` are other names, such as `-q`."""
    variable = variable_name(name.partition("/")[0].removeprefix("--").replace("-", "_"))
    return typer.Option(name, *short, help=help, envvar=variable, show_envvar=False, **more)


def option_of(setting: Setting, *, once: bool = False, **more: Any) -> Any:
    """The flag of a setting, with its allowed values and its default in the help; with `once` it cannot be repeated."""
    sentences = [
        setting.help,
        setting.rules.flag_help,
        f"One of {', '.join(setting.choices)}." if setting.choices else None,
        "May be repeated." if setting.flag_type == list[str] and not once else None,
        f"Default: {setting.default_text}." if setting.default_text else None,
    ]
    return flag(setting.flag, " ".join(filter(None, sentences)), **more)


def job_flags(commands: Commands, model: type[JobSpec] = JobSpec) -> list[inspect.Parameter]:
    """Of the settings that these commands have, each under the heading of its group."""
    return _parameters(setting for setting in settings_of(model).values() if setting.is_of(commands))


def placement_flags(model: type[TrialPlacement] = Placement) -> list[inspect.Parameter]:
    return _parameters(setting for setting in settings_of(model).values() if setting.rules.commands is not Commands.NONE)


def with_flags(*flags: list[inspect.Parameter]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command flags, after its arguments and before its own flags; a flag of its own replaces one with the same name.

    The command reads them from its context (`CliInput`); Typer reads them from the signature that is made here.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        names = {parameter.name for parameter in own}
        first = [parameter for parameter in own if parameter.name in ("context", "file")]
        shared = [parameter for parameter in itertools.chain(*flags) if parameter.name not in names]
        rest = [parameter for parameter in own if parameter not in first]

        def run(**values: Any) -> None:
            command(**{name: value for name, value in values.items() if name in names})

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        every = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*first, *shared, *rest)]
        run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
        return run

    return give


def _parameters(settings: Iterable[Setting]) -> list[inspect.Parameter]:
    parameters = []
    for setting in settings:
        panel: dict[str, Any] = {"rich_help_panel": str(setting.rules.group)}
        parameters.append(_parameter(setting.name, setting.flag_type | None, option_of(setting, **panel), None))
        parameters += [
            _parameter(shortcut.name, bool, flag(shortcut.flag, shortcut.help, **panel), False)
            for shortcut in setting.rules.shortcuts
        ]
    return parameters


def _parameter(name: str, type: Any, option: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type, option])


Progress = Annotated[
    str,
    flag(
        "--progress",
        "How progress is shown on stderr: live (bars), plain (a line an event), none, or auto: live in a terminal, else plain.",
    ),
]
Quiet = Annotated[bool, flag("--quiet", "Write the result and errors only.", "-q")]
TrackingUri = Annotated[str | None, option_of(settings_of(Placement)["tracking_uri"])]
OutputFolder = Annotated[str, option_of(settings_of(Placement)["output"])]
OneModel = Annotated[str | None, option_of(settings_of(JobSpec)["model"], once=True, rich_help_panel=str(Group.MODEL))]
OneFileOfWeights = Annotated[str | None, option_of(settings_of(JobSpec)["weights"], once=True, rich_help_panel=str(Group.MODEL))]
ModelArgs = Annotated[str | None, option_of(settings_of(JobSpec)["model_args"])]
DataConfig = Annotated[str | None, option_of(settings_of(JobSpec)["data_config"])]
ImageColumn = Annotated[str | None, option_of(settings_of(JobSpec)["image_column"])]
LabelColumn = Annotated[str | None, option_of(settings_of(JobSpec)["label_column"])]
UnreadableShare = Annotated[str | None, option_of(settings_of(JobSpec)["unreadable_share"])]
FlopsBudget = Annotated[str | None, option_of(settings_of(JobSpec)["flops"], once=True, rich_help_panel=str(Group.BUDGET))]
