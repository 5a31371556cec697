"""`JobField`: where `SearchJob` holds a setting, and how the value is written there and read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

from autoslim.core.job import SearchJob

R = TypeVar("R")
MISSING = dataclasses.MISSING


def _unchanged(value: Any, _: Any) -> Any:
    return value


@dataclasses.dataclass(frozen=True)
class JobField:
    """`path` is an attribute of the job, or one of a record in it: `trials`, `training.lr`.

    `write` takes the setting's value and the whole spec, on which a default may depend; `read` takes what is at `path` and the whole job.
    """

    path: str
    write: Callable[[Any, Any], Any] = _unchanged
    read: Callable[[Any, SearchJob], Any] = _unchanged

    def value_in(self, job: SearchJob) -> Any:
        value: Any = job
        for name in self.path.split("."):
            value = getattr(value, name)
        return value


def default_at(path: str) -> Any:
    """The default of `SearchJob` at a path; `MISSING` where a job needs a value."""
    head, _, tail = path.partition(".")
    default = _default(SearchJob, head)
    if not tail:
        return default
    return _default(get_type_hints(SearchJob)[head], tail) if default is MISSING else getattr(default, tail)


def _default(record: type, name: str) -> Any:
    (field,) = [field for field in dataclasses.fields(record) if field.name == name]
    return field.default if field.default_factory is MISSING else field.default_factory()


def build(record: type[R], values: Mapping[str, Any]) -> R:
    """A record from values by path; what no path names has its default."""
    hints, arguments = get_type_hints(record), _top(values)
    for head, parts in _nested(values).items():
        default = _default(record, head)
        arguments[head] = build(hints[head], parts) if default is MISSING else replaced(default, parts)
    return record(**arguments)


def replaced(record: R, values: Mapping[str, Any]) -> R:
    """The record with other values at the paths."""
    arguments = _top(values)
    for head, parts in _nested(values).items():
        arguments[head] = replaced(getattr(record, head), parts)
    return dataclasses.replace(record, **arguments)  # type: ignore[type-var]


def _top(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in values.items() if "." not in path}


def _nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, dot, tail = path.partition(".")
        if dot:
            nested.setdefault(head, {})[tail] = value
    return nested
