"""Validation issues of a spec by field, named by a flag, a line of a file or a JSON pointer, with the same message."""

from __future__ import annotations

import dataclasses
import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pydantic
from annotated_types import Ge, Gt, Le
from pydantic_core import ErrorDetails

from autoslim.errors import BudgetError, RequestError

Place = tuple[str | int, ...]
"""A field, and the entries within it: `("flops", 0)`."""

_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxlong = 100, 100, 2, 4, 4, 40

_MAX_ISSUES = 32
"""A spec of a megabyte can have a hundred thousand mistakes, and the nearest names are searched for each unknown one."""

_KINDS = {
    "int_type": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true, false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
}
_ONE_OR_MORE = ("model", "weights")
"""Fields that are one text or a list of them."""
_UNIONS = {"space": "a name, a file, or a mapping"} | dict.fromkeys(_ONE_OR_MORE, "text, or a list of texts")
"""The allowed types of fields with more than one type."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationIssue:
    """`problem` follows the name of the field: `is 0; allowed: 1 and more`. `line` counts from 1 where the spec came as a file."""

    place: Place
    problem: str
    line: int | None = None

    @property
    def pointer(self) -> str:
        """RFC 6901: `/flops/0`; empty for the whole spec."""
        return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in self.place)

    @property
    def field(self) -> str:
        """`flops[0]`; `the spec` for the whole."""
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.place).lstrip(".")
        return name or "the spec"

    def message(self, name: str) -> str:
        return f"{name} {self.problem}" if self.problem.startswith(("is ", "has ")) else f"{name}: {self.problem}"


class SpecError(RequestError):
    """An invalid spec; `issues` has every field that is wrong."""

    def __init__(
        self,
        issues: Sequence[ValidationIssue],
        *,
        source: str | None = None,
        name: Callable[[ValidationIssue], str] = lambda issue: issue.field,
    ) -> None:
        """`source` is the file to which the issues' lines belong; `name` gives the name of a field where the user wrote it."""
        assert issues, "an error without an issue"
        self.issues = tuple(issues)
        super().__init__("\n".join(_where(issue, source) + issue.message(name(issue)) for issue in self.issues))

    def named(self, name: Callable[[ValidationIssue], str]) -> SpecError:
        """The same error with other names, such as the flags of the command line (`flag_of`)."""
        return SpecError(self.issues, name=name)


class InfeasibleSpecError(SpecError, BudgetError):
    """A spec with a budget or a limit that nothing in its search space reaches."""

    exit_code = BudgetError.exit_code


def flag_of(issue: ValidationIssue) -> str:
    """The flag of the field, such as `--batch-size`."""
    return "--" + str(issue.place[0]).replace("_", "-") if issue.place else "the command line"


def short_repr(value: object) -> str:
    """A value for an error message, short however long or deep it is."""
    return _SHORT.repr(value)


def unknown(name: str, allowed: Iterable[str], *, among: str | None = None) -> str:
    """The problem with a name that is not in `allowed`, with the nearest names first. `among` describes `allowed` where there are many."""
    names = list(allowed)
    close = difflib.get_close_matches(name[:100], names, n=3, cutoff=0.5)
    hint = f" did you mean {', '.join(close)}?" if close else ""
    return f"is {short_repr(name)};{hint} allowed: {among or ', '.join(names) or 'none'}"


def issues_of(error: pydantic.ValidationError, fields: Mapping[str, Any]) -> list[ValidationIssue]:
    """The issues in pydantic's error, one per place: of the branches of a union, the first. `fields` are the model's."""
    found: dict[Place, ValidationIssue] = {}
    details = error.errors(include_url=False)
    for detail in details[:_MAX_ISSUES]:
        place = _place(detail["loc"], fields)
        # What is wrong with a list is said by the branch for lists, which is the second.
        is_list = len(place) == 1 and isinstance(detail.get("input"), list | tuple)
        if is_list and place[0] in _ONE_OR_MORE and detail["type"] == "string_type":
            continue
        found.setdefault(place, ValidationIssue(place=place, problem=_problem(detail, place, fields)))
    # pydantic also reports a list as too short when its entries are wrong; the entries' own issues say more.
    issues = [
        issue for place, issue in found.items() if not any(place == other[: len(place)] != other for other in found if place)
    ]
    if len(details) > _MAX_ISSUES:
        issues.append(ValidationIssue(place=(), problem=f"has {len(details)} mistakes; the first are listed"))
    return issues


def _where(issue: ValidationIssue, source: str | None) -> str:
    if source is None:
        return ""
    return f"{source}: " if issue.line is None else f"{source}, line {issue.line}: "


def _place(location: tuple[str | int, ...], fields: Mapping[str, Any]) -> Place:
    """The place in the document: pydantic's location also has the branch of a union, as in `("space", "str")`."""
    if not location or location[0] not in fields:
        return location
    if location[0] == "model_args":
        return location[:2]
    # An entry of a list is behind the branch.
    named = location[:3] if location[0] in _ONE_OR_MORE else location[:2]
    return tuple(part for part in named if part == location[0] or isinstance(part, int))


def _problem(detail: ErrorDetails, place: Place, fields: Mapping[str, Any]) -> str:
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == "missing":
        return "is needed"
    if kind == "extra_forbidden":
        return _unknown_field(str(place[-1]), fields)
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "model_attributes_type", "dict_type") and not place:
        return f"is {short_repr(value)}; allowed: an object with the fields {', '.join(fields)}"
    if kind == "json_invalid":
        return f"is not valid JSON: {context['error']}"
    if kind == "literal_error":
        return f"is {short_repr(value)}; allowed: {_choices(str(context['expected']))}"
    if kind in ("too_short", "string_too_short"):
        return "is empty; at least one is needed" if kind == "too_short" else "is empty"
    if kind in ("too_long", "string_too_long"):
        what = "entries" if kind == "too_long" else "characters"
        return f"is too long; allowed: at most {context['max_length']} {what}"
    if len(place) == 1 and place[0] in _UNIONS:
        return f"is {short_repr(value)}; allowed: {_UNIONS[str(place[0])]}"
    allowed = _bounds(place, fields) if kind.startswith(("greater", "less")) else _KINDS.get(kind) or _bounds(place, fields)
    return f"is {short_repr(value)}; allowed: {allowed or detail['msg']}"


def _unknown_field(name: str, fields: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name[:100], list(fields), n=1, cutoff=0.5)
    return "is not a field of a job; " + (f"did you mean {close[0]}?" if close else f"allowed: {', '.join(fields)}")


def _choices(expected: str) -> str:
    return ", ".join(re.findall(r"'([^']*)'", expected)) or expected


def _bounds(place: Place, fields: Mapping[str, Any]) -> str:
    return allowed_range(fields[str(place[0])].metadata) if place and place[0] in fields else ""


def allowed_range(rules: Iterable[object]) -> str:
    """The bounds of a number: `1 and more`, `above 0`, `0 to 9`; empty where there are none."""
    by_type: dict[type, Any] = {type(rule): rule for rule in rules}
    low, above, high = by_type.get(Ge), by_type.get(Gt), by_type.get(Le)
    if low is not None and high is not None:
        return f"{low.ge} to {high.le}"
    if low is not None:
        return f"{low.ge} and more"
    return f"above {above.gt}" if above is not None else ""
