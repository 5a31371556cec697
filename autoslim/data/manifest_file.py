"""Files of manifests: CSV, TSV and JSON lines, read as columns of texts. Untrusted input: sizes and lines are bounded."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from autoslim.data.columns import Columns, choose_columns
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError, first_line

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
SUFFIXES = (*DELIMITERS, *LINES)
SPLIT = "split"
"""The column that says which split an image is in."""

MAX_BYTES = 512 * 2**20
"""Bound of one manifest, which is held in memory: some ten million paths."""

_SHOWN = 5
"""Columns that are named in a hint."""

_MAX_LINE = 2**20
"""Characters of a line: a path and a label are far shorter, and a file without line ends would be read whole."""


def read_columns(path: Path, wanted: Wanted) -> tuple[Any, Columns]:
    """An Arrow table with the columns of paths, labels and splits as far as there are any, all of texts; and which of them is what.

    Raises:
        DatasetError: for a file that is too large, cannot be read as its suffix says, or has no such columns.
    """
    check_size(path)
    read = _read_lines if path.suffix.lower() in LINES else _read_delimited
    return read(path, wanted)


def describe_header(path: Path) -> str | None:
    """Why a file is no manifest of images and labels, by the names of its columns; None where it is one."""
    try:
        check_size(path)
        if path.suffix.lower() in LINES:
            names = list(next(_json_lines(path), (0, {}))[1])
        else:
            names, _ = _header(path)
    except DatasetError:
        return "not readable"
    try:
        choose_columns(pa.schema([(name, pa.string()) for name in names]), Wanted(), str(path), known=_known(names))
    except DatasetError:
        return f"columns {', '.join(names[:_SHOWN])}" + (", ..." if len(names) > _SHOWN else "")
    return None


def check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DatasetError(f"{path} has {size:,} bytes; allowed for a manifest: at most {MAX_BYTES:,}; write it as Parquet")


def _read_delimited(path: Path, wanted: Wanted) -> tuple[Any, Columns]:
    names, delimiter = _header(path)
    columns = choose_columns(pa.schema([(name, pa.string()) for name in names]), wanted, str(path), known=_known(names))
    used = [columns.image, *([columns.label] if columns.label else []), *_known(names)]
    options = pacsv.ConvertOptions(column_types=dict.fromkeys(used, pa.string()), include_columns=used, strings_can_be_null=False)
    try:
        table = pacsv.read_csv(path, parse_options=pacsv.ParseOptions(delimiter=delimiter), convert_options=options)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read as a table: {first_line(error)}") from error
    return table, columns


def _header(path: Path) -> tuple[list[str], str]:
    delimiter = DELIMITERS[path.suffix.lower()]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline(_MAX_LINE)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not a text file in UTF-8 ({first_line(error)})") from error
    # Spreadsheets write semicolons where the comma is the decimal mark.
    if delimiter == "," and "," not in line and ";" in line:
        delimiter = ";"
    try:
        names = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:
        raise DatasetError(
            f"{path}: its first line cannot be read ({error}); it has to name the columns, such as path,label"
        ) from error
    repeated = [name for name in names if names.count(name) > 1]
    if repeated or not names:
        what = f"names the column {repeated[0]!r} twice" if repeated else "is empty"
        raise DatasetError(f"{path}: its first line {what}; it has to name the columns, such as path,label")
    return names, delimiter


def _read_lines(path: Path, wanted: Wanted) -> tuple[Any, Columns]:
    lines = _json_lines(path)
    first = next(lines, None)
    if first is None:
        raise DatasetError(f'{path} is empty; expected lines such as {{"path": "a.jpg", "label": "cat"}}')
    names = list(first[1])
    columns = choose_columns(pa.schema([(name, pa.string()) for name in names]), wanted, str(path), known=_known(names))
    used = [columns.image, *([columns.label] if columns.label else []), *_known(names)]
    values: dict[str, list[str]] = {name: [] for name in used}
    for number, line in itertools.chain([first], lines):
        for name in used:
            values[name].append(_text_of(line, name, f"{path}, line {number}"))
    return pa.table({name: pa.chunked_array([pa.array(texts, pa.string())]) for name, texts in values.items()}), columns


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number in itertools.count(1):
                line = file.readline(_MAX_LINE)
                if not line:
                    return
                if line.strip():
                    yield number, _object(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not a text file in UTF-8 ({first_line(error)})") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not JSON ({first_line(error)}); expected an object a line") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{where} is not a JSON object; expected an object a line")
    return value


def _text_of(line: dict[str, Any], name: str, where: str) -> str:
    value = line.get(name)
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return json.dumps(value)
    raise DatasetError(f"{where}: {name} is {json.dumps(value)[:80]}; allowed: a text or a whole number")


def _known(names: Sequence[str]) -> tuple[str, ...]:
    return (SPLIT,) if SPLIT in names else ()
