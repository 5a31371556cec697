"""`Record`: frozen dataclasses that convert to JSON and back without loss.

Every noun of the project is a `Record`. Reading is strict: an unknown or missing field is an error, because a silently dropped field
would be a silently changed job.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import types
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from autoslim.errors import RequestError

OPTIONAL = {"optional": True}
"""Metadata of a field that `to_dict` leaves out where it has its default: a record without it has the JSON and the digest of earlier
versions, which did not know of it."""


class Record:
    """Mixin for frozen, keyword-only dataclasses: `to_dict`, `from_dict`, `to_json`, `from_json`, `digest`."""

    def to_dict(self) -> dict[str, Any]:
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: _plain(getattr(self, field.name)) for field in fields if not _is_left_out(self, field)}

    def to_json(self, *, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), indent=indent, sort_keys=True)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change when any field changes."""
        return digest_of(self.to_dict())

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The record from JSON values. Raises RequestError naming the field where `data` does not fit it."""
        if not isinstance(data, dict):
            raise RequestError(f"{cls.__name__} must be an object, not {data!r}")
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(data) - set(fields))
        if unknown:
            raise RequestError(f"{cls.__name__} has no field {unknown[0]!r}; allowed: {', '.join(fields)}")
        hints = _hints(cls)  # type: ignore[arg-type]
        values = {name: _typed(hints[name], data[name], f"{cls.__name__}.{name}") for name in fields if name in data}
        try:
            return cls(**values)
        except TypeError as error:
            raise RequestError(f"{cls.__name__}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise RequestError(f"{cls.__name__} is not valid JSON: {error}") from error


def _is_left_out(record: Record, field: dataclasses.Field[Any]) -> bool:
    if not OPTIONAL.items() <= field.metadata.items():
        return False
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return bool(getattr(record, field.name) == default)


def digest_of(data: dict[str, Any]) -> str:
    """`Record.digest` for fields that are JSON values already."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = [arg for arg in args if arg is not type(None)]
        return _typed(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RequestError(f"{where} must be a list, not {value!r}")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise RequestError(f"{where} must have {len(kinds)} entries, not {len(value)}")
        return tuple(_typed(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise RequestError(f"{where} must be an object, not {value!r}")
        return {key: _typed(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError as error:
            raise RequestError(f"{where} is {value!r}; allowed: {', '.join(str(m.value) for m in hint)}") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise RequestError(f"{where} must be {hint.__name__}, not {value!r}")
    return value
