"""From YAML, JSON or a mapping to a `JobSpec`. Errors name the field, and the line in a file."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from autoslim.config.issues import Place, SpecError, ValidationIssue, issues_of
from autoslim.config.job_spec import JobSpec
from autoslim.config.strict_yaml import PlainLoader

M = TypeVar("M", bound=pydantic.BaseModel)

SIZE_LIMIT = 2**20
"""Largest spec in bytes: specs are stored in a database row, and a larger one is a mistake or an attack."""


def read_mapping(values: Mapping[str, Any]) -> JobSpec:
    """From Python values, such as flags or keyword arguments.

    Raises:
        SpecError: naming every field that is wrong.
    """
    return validated(JobSpec, lambda: JobSpec.model_validate(dict(values)))


def read_json(text: str | bytes) -> JobSpec:
    """Raises SpecError, also for text that is not JSON, and for a field that is given twice."""
    if len(text) > SIZE_LIMIT:
        raise SpecError([_too_large()])
    spec = validated(JobSpec, lambda: JobSpec.model_validate_json(text))
    # Programs differ in which of two values they take; what one has checked, another would run. Pydantic takes the last without a word.
    # Only text that pydantic has accepted comes here, which bounds the nesting.
    if issues := list(_repeated(json.loads(text, object_pairs_hook=_Object), ())):
        raise SpecError(issues)
    return spec


class _Object(dict[str, Any]):
    """A JSON object that remembers the keys that it has twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = collections.Counter(name for name, _ in pairs)
        self.repeated = [name for name, count in counts.items() if count > 1]


def _repeated(value: Any, place: Place) -> Iterator[ValidationIssue]:
    if isinstance(value, _Object):
        for name in value.repeated:
            yield ValidationIssue(place=(*place, name), problem="is given twice; allowed: once")
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for entry, each in entries:
        yield from _repeated(each, (*place, entry))


def read_yaml(path: Path) -> JobSpec:
    """Raises SpecError naming the file, the line and the field."""
    return parse_yaml(read_text(path), source=str(path))


def read_text(path: Path) -> str:
    """Raises SpecError for what cannot be read, is too large, or is not UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(SIZE_LIMIT + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise SpecError([ValidationIssue(place=(), problem=f"cannot be read: {error.strerror}")], source=str(path)) from error
    except UnicodeDecodeError as error:
        raise SpecError(
            [ValidationIssue(place=(), problem=f"is not UTF-8 text (byte {error.start})")], source=str(path)
        ) from error
    return text


def read_plain(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, without any validation.

    Raises:
        SpecError: naming the file.
    """
    found, _ = _parse(read_text(path), str(path))
    if not isinstance(found, dict):
        raise SpecError([ValidationIssue(place=(), problem="is not a mapping")], source=str(path))
    return found


def parse_yaml(text: str, *, source: str, changes: Mapping[str, Any] | None = None) -> JobSpec:
    """`source` names the file in errors. `changes` replace fields of the file, as flags on the command line do.

    Raises:
        SpecError: naming the file, the line and the field.
    """
    if len(text) > SIZE_LIMIT:
        raise SpecError([_too_large()], source=source)
    data, lines = _parse(text, source)
    if isinstance(data, dict) and changes:
        data |= changes
    try:
        return validated(JobSpec, lambda: JobSpec.model_validate(data))
    except SpecError as error:
        placed = [dataclasses.replace(issue, line=_line(lines, issue.place)) for issue in error.issues]
        raise SpecError(placed, source=source) from None


def validated(model: type[M], read: Callable[[], M]) -> M:
    """The result of `read`. Raises SpecError in place of pydantic's error, whose text quotes the whole input."""
    try:
        return read()
    except pydantic.ValidationError as error:
        raise SpecError(issues_of(error, model.model_fields)) from None


def _too_large() -> ValidationIssue:
    return ValidationIssue(place=(), problem=f"is larger than {SIZE_LIMIT} bytes, the most that one may have")


def _parse(text: str, source: str) -> tuple[Any, dict[Place, int]]:
    try:
        loader = PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        return loader.construct_document(node), _lines(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        problem = f"is not valid YAML: {error.problem or error.context}"
        raise SpecError(
            [ValidationIssue(place=(), problem=problem, line=mark.line + 1 if mark else None)], source=source
        ) from None
    except RecursionError:
        raise SpecError([ValidationIssue(place=(), problem="is nested too deeply")], source=source) from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError([ValidationIssue(place=(), problem=f"is not valid YAML: {str(error)[:200]}")], source=source) from None


def _lines(root: yaml.Node) -> dict[Place, int]:
    """The line of each field and entry, from 1."""
    lines: dict[Place, int] = {}
    pending: list[tuple[Place, yaml.Node]] = [((), root)]
    while pending:
        place, node = pending.pop()
        lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                lines[(*place, key.value)] = key.start_mark.line + 1
                pending.append(((*place, key.value), value))
        elif isinstance(node, yaml.SequenceNode):
            pending += [((*place, index), value) for index, value in enumerate(node.value)]
    return lines


def _line(lines: dict[Place, int], place: Place) -> int | None:
    """The line of the place, or of the nearest entry around it; None for a field that is missing."""
    if place in lines:
        return lines[place]
    return next((lines[place[:end]] for end in range(len(place) - 1, 0, -1) if place[:end] in lines), None)
