"""Search spaces as YAML: by name from `search_spaces/`, or by path. `docs/search-spaces.md` describes the format.

A file only restricts: a knob that it does not name keeps the method's whole range, a training setting that it does not name keeps the
job's value.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from autoslim.config.strict_yaml import StrictLoader
from autoslim.errors import SpaceError
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.methods.knob import Ranges
from autoslim.search.space.chains import read_chains
from autoslim.search.space.restrict import narrow, refuse_unknown, short_repr
from autoslim.search.space.space import SPLIT, SPLIT_LIMITS, TRAINING, Space

SIZE_LIMIT = 2**20
"""Bytes. The largest space has a few kilobytes; more is a wrong file or an attack on the parser."""
_KEYS = ("description", "methods", "chains", "split", "training")


def space_names() -> list[str]:
    """Names of the spaces that are part of autoslim."""
    folder = importlib.resources.files("search_spaces")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_space(source: str, methods: Mapping[str, Method] = METHODS) -> Space:
    """The space of `source`: a name from `space_names`, a path (anything with a slash or ending in `.yaml` or `.yml`), or the space itself
    as a JSON object.

    Raises:
        SpaceError: naming the file, the key and what is allowed.
    """
    if source.lstrip().startswith("{"):
        return parse_space(source, source="space", methods=methods)
    if "/" not in source and "\\" not in source and not source.endswith((".yaml", ".yml")):
        refuse_unknown(source, space_names(), "search space", "space")
        text = (importlib.resources.files("search_spaces") / f"{source}.yaml").read_text(encoding="utf-8")
        return parse_space(text, source=f"{source}.yaml", methods=methods)
    try:
        with Path(source).open("rb") as file:
            raw = file.read(SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpaceError(f"{source}: cannot be read: {reason}; named spaces are: {', '.join(space_names())}") from error
    if len(raw) > SIZE_LIMIT:
        raise SpaceError(f"{source}: is larger than {SIZE_LIMIT} bytes, the limit for a search space")
    try:
        return parse_space(raw.decode("utf-8"), source=source, methods=methods)
    except UnicodeDecodeError as error:
        raise SpaceError(f"{source}: is not UTF-8 text (byte {error.start})") from error


def parse_space(text: str, *, source: str, methods: Mapping[str, Method] = METHODS) -> Space:
    """The space that `text` describes. `source` stands for the file in errors, and gives the space its name.

    Raises:
        SpaceError: naming the file, the key and what is allowed.
    """
    data = _read_yaml(text, source)
    if not isinstance(data, dict):
        raise SpaceError(f"{source}: must be a mapping with the keys {', '.join(_KEYS)}, not {short_repr(data)}")
    for key in data:
        refuse_unknown(key, _KEYS, source, "key")
    description = data.get("description", "")
    if not isinstance(description, str):
        raise SpaceError(f"{source}: description is {short_repr(description)}; allowed: a line of text")
    narrowed = _methods(data.get("methods"), source, methods)
    chains = read_chains(data["chains"], narrowed, methods, source) if "chains" in data else ()
    split = SPLIT
    if "split" in data:
        if not any(len(chain) > 1 for chain in chains):
            raise SpaceError(f"{source}: split has no effect: no chain has two methods; add one to chains, or remove split")
        split = narrow(SPLIT_LIMITS, data["split"], f"{source}: split")
    return Space(
        name=Path(source).stem,
        description=description.strip(),
        methods=narrowed,
        training=_training(data.get("training"), source),
        chains=chains,
        split=split,
    )


def _methods(data: Any, source: str, methods: Mapping[str, Method]) -> dict[str, Ranges]:
    section = _section(data, source, "methods")
    if not section:
        raise SpaceError(f"{source}: methods: names no method; allowed: {', '.join(methods)}")
    for name in section:
        refuse_unknown(name, methods, f"{source}: methods", "method")
    # In the registry's order: samples must not depend on the order in the file.
    chosen = [name for name in methods if name in section]
    return {name: _narrowed(methods[name].ranges, section[name], source, f"methods.{name}") for name in chosen}


def _narrowed(ranges: Ranges, data: Any, source: str, key: str) -> Ranges:
    section = _section(data, source, key)
    for name in section:
        refuse_unknown(name, [knob for knob in ranges if ranges[knob].searched], f"{source}: {key}", "knob")
    return {
        name: narrow(knob, section[name], f"{source}: {key}.{name}") if name in section else knob for name, knob in ranges.items()
    }


def _training(data: Any, source: str) -> Ranges:
    section = _section(data, source, "training")
    for name in section:
        refuse_unknown(name, TRAINING, f"{source}: training", "training setting")
    return {name: narrow(knob, section[name], f"{source}: training.{name}") for name, knob in TRAINING.items() if name in section}


def _section(data: Any, source: str, key: str) -> dict[Any, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SpaceError(f"{source}: {key} must be a mapping, not {short_repr(data)}")
    return data


def _read_yaml(text: str, source: str) -> Any:
    if len(text) > SIZE_LIMIT:
        raise SpaceError(f"{source}: is larger than {SIZE_LIMIT} bytes, the limit for a search space")
    try:
        return yaml.load(text, Loader=StrictLoader)  # noqa: S506 - a SafeLoader  # nosec B506
    except yaml.MarkedYAMLError as error:
        # The text around the mark is left out: the service must not show a user the content of another's file.
        mark = error.problem_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpaceError(f"{source}{at}: is not valid YAML: {error.problem or error.context}") from error
    except RecursionError as error:
        raise SpaceError(f"{source}: is nested too deeply to be a search space") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SpaceError(f"{source}: is not valid YAML: {str(error)[:200]}") from error
