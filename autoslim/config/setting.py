"""`setting`: declares a setting, with everything that is known of it, as one field of `JobSpec` or `Placement`.

Command-line flags, AUTOSLIM_* variables, the job file that `autoslim init` writes, the JSON Schema, the job that a spec becomes, what a
resumed search may change, the service's cache of plans and the reference page are made from these fields and name no setting themselves.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from autoslim.config.issues import allowed_range
from autoslim.config.job_field import MISSING, JobField, default_at
from autoslim.core.job import SearchJob

PREFIX = "AUTOSLIM_"
_OF_THE_JOB: Any = object()
"""The default is that of `SearchJob` at the setting's first field."""


class Group(enum.StrEnum):
    """The headings under which settings are listed, in this order."""

    MODEL = "Model"
    DATA = "Data"
    BUDGET = "Budget"
    SEARCH = "Search"
    TRAINING = "Training"
    RESULT = "Result"
    JOB = "Job"
    PLACEMENT = "Where it runs"


class Commands(enum.StrEnum):
    """The commands that have a flag for a setting; each member includes the ones before."""

    NONE = "none"
    SLIM = "slim"
    """`slim`, which runs no search."""
    SEARCH = "search"
    """`search` and `plan`, too."""
    SUBMIT = "submit"
    """Only `submit`, for the queue of the service."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shortcut:
    """A flag without a value that sets a setting to one value, such as `--from-scratch`."""

    name: str
    value: Any
    help: str

    @property
    def flag(self) -> str:
        return flag_name(self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """The properties of a setting besides type, default, bounds and help.

    The defaults are the safe choices: a setting decides a plan, and a resumed search keeps it. A setting that wrongly decides a plan only
    costs a cache hit; one that wrongly does not would return another spec's plan.

    `job` are its places in `SearchJob`, the first of which it is read back from. `shown_default` describes a default that depends on other
    settings. `flag_type`, `flag_help` and `parse` are for a value that is typed in another form than its type suggests, and `shortcuts`
    for one with a flag of its own. A list with `one_a_line` has an entry in each line of its variable; other lists have one in each word.
    `example` is what `autoslim init` asks the user to fill in.
    """

    group: Group
    commands: Commands = Commands.SEARCH
    job: tuple[JobField, ...] = ()
    resumable: bool = False
    decides_plan: bool = True
    shown_default: str | None = None
    flag_type: Any = None
    flag_help: str | None = None
    parse: Callable[[str], Any] | None = None
    shortcuts: tuple[Shortcut, ...] = ()
    one_a_line: bool = False
    example: Any = None


def setting(help: str, rules: Rules, *, default: Any = _OF_THE_JOB, **bounds: Any) -> Any:
    """A field of a pydantic model; `bounds` are pydantic's (`ge`, `max_length`, ...). Without a `default` it is that of `SearchJob`."""
    if default is _OF_THE_JOB:
        default = default_at(rules.job[0].path)
    field: FieldInfo = Field(description=help, **bounds, **({} if default is MISSING else {"default": default}))
    field.metadata.append(rules)
    return field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a model, as the user meets it."""

    name: str
    field: FieldInfo
    rules: Rules

    def values_in(self, job: SearchJob) -> list[Any]:
        """What the job holds of it, in the order of `rules.job`."""
        return [field.value_in(job) for field in self.rules.job]

    @property
    def help(self) -> str:
        return self.field.description or ""

    def is_of(self, commands: Commands) -> bool:
        """Whether these commands have it."""
        order = tuple(Commands)
        own = self.rules.commands
        return own is not Commands.NONE and order.index(own) <= order.index(commands)

    @property
    def flag(self) -> str:
        """`--batch-size`; `--flip/--no-flip` for a yes or no."""
        flag = flag_name(self.name)
        return f"{flag}/--no-{flag[2:]}" if self.flag_type is bool else flag

    @property
    def variable(self) -> str:
        return variable_name(self.name)

    @property
    def needed(self) -> bool:
        return self.field.is_required()

    @property
    def default(self) -> Any:
        return None if self.needed else self.field.get_default(call_default_factory=True)

    @property
    def default_text(self) -> str | None:
        """As it is shown to people; None where there is nothing to show, such as for an empty list."""
        if self.rules.shown_default is not None:
            return self.rules.shown_default
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default)) or None
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return None if self.default is None or self.default == {} else str(self.default)

    @property
    def choices(self) -> tuple[str, ...]:
        """Of a setting, or of the entries of a list."""
        return tuple(str(value) for branch in _branches(self.field.annotation) for value in _literals(branch))

    @property
    def allowed(self) -> str:
        """Choices or bounds, such as `1 and more`; empty where the type says it all."""
        return ", ".join(self.choices) or allowed_range(self.field.metadata)

    @property
    def flag_type(self) -> Any:
        """The type that the command line reads: `str`, `int`, `float`, `bool`, or `list[str]` for a flag that may be repeated."""
        if self.rules.flag_type is not None:
            return self.rules.flag_type
        branches = _branches(self.field.annotation)
        if len(branches) > 1:
            return str
        if get_origin(branches[0]) is tuple:
            return list[str]
        return branches[0] if branches[0] in (bool, int, float) else str

    @property
    def type_text(self) -> str:
        """In words: `whole number`, `list`, `text or mapping`."""
        return " or ".join(dict.fromkeys(_type_text(branch) for branch in _branches(self.field.annotation)))


def settings_of(model: type[BaseModel]) -> dict[str, Setting]:
    """By name, in the order of the model's fields."""
    return {name: Setting(name=name, field=field, rules=_rules(name, field)) for name, field in model.model_fields.items()}


def flag_name(name: str) -> str:
    """`--batch-size` of `batch_size`."""
    return "--" + name.replace("_", "-")


def variable_name(name: str) -> str:
    """`AUTOSLIM_BATCH_SIZE` of `batch_size`."""
    return PREFIX + name.upper()


def _rules(name: str, field: FieldInfo) -> Rules:
    rules = [rule for rule in field.metadata if isinstance(rule, Rules)]
    assert len(rules) == 1, f"{name} is not declared with setting()"
    return rules[0]


def _branches(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows, without `None` and without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(branch for part in get_args(annotation) if part is not types.NoneType for branch in _branches(part))
    return (annotation,)


_TYPES = {bool: "true or false", int: "whole number", float: "number", dict: "mapping", tuple: "list"}


def _type_text(annotation: Any) -> str:
    return _TYPES.get(get_origin(annotation) or annotation, "text")


def _literals(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is tuple:
        return tuple(value for branch in _branches(get_args(annotation)[0]) for value in _literals(branch))
    return typing.get_args(annotation) if get_origin(annotation) is Literal else ()
