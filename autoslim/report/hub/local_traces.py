"""Paths of the machine that made a model: how they are taken out of texts and of exported programs, and how they are found."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePath
from typing import Any

import onnx
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

from autoslim.core.job import ModelSpec
from autoslim.core.made_from import MadeFrom
from autoslim.core.urls import hide_password
from autoslim.data.hub import hub_name
from autoslim.errors import ExportError
from autoslim.export import onnx_form, pt2_form

_PATH = re.compile(r"(?:file://)?(?<![\w:/.~\])<])(?:~|/[\w.@+%~-]+)(?:/[\w.@+%~-]+)+|file://\S+")
"""An absolute path of two names or more, and not a part of a URL or of a fraction."""

_SOURCE_FILE = re.compile(rb"(?:/[\w.@+%-]+){2,}\.py\b")
"""Exporters note for each node the line of Python that it comes from."""


def without_paths(text: str) -> str:
    """Of each absolute path only its last name is left, and of URLs no password."""
    return _PATH.sub(lambda found: PurePath(found[0]).name, hide_password(text))


def without_paths_in(value: Any) -> Any:
    """The same in all texts of a JSON value."""
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, list):
        return [without_paths_in(item) for item in value]
    return {key: without_paths_in(item) for key, item in value.items()} if isinstance(value, dict) else value


def public_name(source: str) -> str:
    """A data set, model or file by its name; one of the hub as it is."""
    return source if hub_name(source) is not None or "/" not in source else PurePath(hide_password(source).rstrip("/")).name


def public(made_from: MadeFrom) -> MadeFrom:
    """Whoever makes the model again says where the data and the dense model are, as with any other folder that has moved."""
    return made_from.replace(
        model=_public_model(made_from.model),
        teacher=None if made_from.teacher is None else _public_model(made_from.teacher),
        dataset=made_from.dataset.replace(source=public_name(made_from.dataset.source)),
        probe=None if made_from.probe is None else public_name(made_from.probe),
    )


def _public_model(spec: ModelSpec) -> ModelSpec:
    return spec.replace(name=public_name(spec.name), weights=public_name(spec.weights))


def clean_programs(folder: Path) -> None:
    """Takes the lines of Python out of the ONNX graph and of torch's program, in place; what they compute stays the same.

    Raises:
        ExportError: where one still names a file.
    """
    graph, program = folder / onnx_form.FILE, folder / pt2_form.FILE
    if graph.is_file():
        _clean_onnx(graph)
    if program.is_file():
        _clean_pt2(program)
    for path in (graph, program):
        found = _SOURCE_FILE.search(path.read_bytes()) if path.is_file() else None
        if found is not None:
            raise ExportError(f"{path.name} names {found[0].decode()}, a file of the machine that has made it, and is not pushed")


def _clean_onnx(path: Path) -> None:
    model = onnx.load(path)
    parts: list[Any] = [model, model.graph, *model.functions]
    for graph in (model.graph, *model.functions):
        parts += [*graph.node, *graph.value_info]
    parts += [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for part in parts:
        del part.metadata_props[:]
        part.ClearField("doc_string")
    onnx.save(model, path)


def _clean_pt2(path: Path) -> None:
    """Copied record by record, because `torch.export.load` may unpickle what it reads."""
    old, cleaned = PT2ArchiveReader(str(path)), path.with_suffix(".cleaned")
    with PT2ArchiveWriter(str(cleaned)) as new:
        for name in old.get_file_names():
            # Those below .data the writer makes itself.
            if not name.startswith(".data/"):
                record = old.read_bytes(name)
                is_program = name.startswith("models/") and name.endswith(".json")
                new.write_bytes(name, _without_stack_traces(record) if is_program else record)
    cleaned.replace(path)


def _without_stack_traces(program: bytes) -> bytes:
    def cleaned(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name != "stack_trace"}

    return json.dumps(json.loads(program, object_hook=cleaned)).encode()
