"""Whatever is given, it is taken or refused by an error of ours that says why: specs, budgets, search spaces, Parquet, images."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers.examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autoslim.config import JobSpec, SpecError, parse_yaml, read_json
from autoslim.core.budget import Budget
from autoslim.core.duration import parse_duration
from autoslim.data.decode import MAX_PIXELS, decode_rgb
from autoslim.data.sources import open_source
from autoslim.errors import DatasetError, RequestError, SpaceError
from autoslim.methods import METHODS
from autoslim.search import Space, parse_space

SPEC = {"model": "deit_tiny_patch16_224", "weights": "scratch", "data": "digits", "flops": ["50%"]}

# JSON of any shape, with the numbers and texts that settings are made of.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["50%", "2.3G", "5ms@1", "1e999", "-0", "nan", "all", "auto", "../x", "http://x/y", "\x00", "é" * 40])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6
)

# Specs


@given(st.dictionaries(st.sampled_from(sorted(JobSpec.model_fields)), JSON, max_size=4))
@settings(max_examples=examples(150))
def test_a_spec_of_any_values_is_read_or_refused_by_field(changes: dict[str, Any]) -> None:
    try:
        spec = read_json(json.dumps(SPEC | changes))
    except SpecError as error:
        assert {issue.place[0] for issue in error.issues if issue.place} <= JobSpec.model_fields.keys()
        # Nobody is sent back what they sent.
        assert len(str(error)) < 20_000
    else:
        assert read_json(spec.model_dump_json()) == spec


@given(st.text(alphabet="abflops: {}[]&*!|>-#%'\"\n\t0123.e", max_size=80) | st.text(max_size=80))
@settings(max_examples=examples(250))
def test_a_job_file_of_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SpecError):
        parse_yaml(text, source="job.yaml")


@given(st.binary(max_size=80))
@settings(max_examples=examples(150))
def test_a_request_of_any_bytes_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(SpecError):
        read_json(body)


# Budgets

NUMBERS = st.from_regex(r"[0-9.]{1,40}(e[+-]?[0-9]{1,4})? ?[KMGTkmgt]?(FLOPs|MACs)?%?", fullmatch=True)


@given(st.text(max_size=30) | NUMBERS)
@settings(max_examples=examples(250))
def test_a_budget_of_any_text_is_positive_or_refused(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except RequestError:
        return
    assert (budget.flops is None) != (budget.share is None)
    assert budget.flops_of(10**9) >= 0 and (budget.flops is None or budget.flops > 0)
    assert Budget.parse(budget.label) == budget
    assert Budget.from_json(budget.to_json()) == budget


@given(st.text(max_size=30) | st.from_regex(r"([0-9]{1,30}(\.[0-9]{1,30})?[wdhms]){1,5}", fullmatch=True))
@settings(max_examples=examples(150))
def test_a_duration_of_any_text_is_positive_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration(text) > 0


# Search spaces

KNOBS = sorted({name for method in METHODS.values() for name in method.ranges})
NUMBER = st.integers(-3, 20) | st.floats(-1.0, 2.0)
VALUES = (
    NUMBER
    | st.fixed_dictionaries({}, optional={"low": NUMBER, "high": NUMBER, "log": st.booleans()})
    | st.lists(NUMBER, max_size=3)
    | JSON
)
SECTIONS = st.none() | st.dictionaries(st.sampled_from(KNOBS), VALUES, max_size=2) | JSON
SPACES = st.fixed_dictionaries(
    {"methods": st.dictionaries(st.sampled_from(sorted(METHODS)), SECTIONS, max_size=2) | JSON},
    optional={
        "training": st.dictionaries(st.sampled_from(["lr", "epochs", "flip", "batch_size"]), VALUES, max_size=2),
        "chains": st.lists(st.lists(st.sampled_from(sorted(METHODS)), max_size=3), max_size=2) | JSON,
        "split": VALUES,
        "description": JSON,
    },
)


@given(SPACES)
@settings(max_examples=examples(250))
def test_a_space_of_any_values_is_read_or_refused_and_survives_json(data: dict[str, Any]) -> None:
    try:
        # JSON is YAML.
        space = parse_space(json.dumps(data), source="s.yaml")
    except SpaceError as error:
        assert len(str(error)) < 20_000
    else:
        assert space.methods.keys() <= METHODS.keys()
        assert Space.from_json(space.to_json()) == space


@given(st.text(alphabet="methodswidth: {}[]&*!|>-#\n0123.", max_size=80) | st.text(max_size=80))
@settings(max_examples=examples(150))
def test_a_space_of_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SpaceError):
        parse_space(text, source="s.yaml")


# Parquet

TYPES: list[pa.DataType] = [
    pa.binary(),
    pa.large_binary(),
    pa.string(),
    pa.int8(),
    pa.uint64(),
    pa.int64(),
    pa.float32(),
    pa.bool_(),
    pa.null(),
    pa.date32(),
    pa.list_(pa.int64()),
    pa.list_(pa.uint8()),
    pa.dictionary(pa.int32(), pa.string()),
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    pa.struct([("path", pa.string())]),
    pa.struct([("bytes", pa.int64())]),
]
# From texts, which every type is cast from where it can be, and is null elsewhere.
CELLS = st.sampled_from(["", "0", "1", "2", "-1", "300", "cat", "a.png", "/etc/passwd", "1e9", "\x00"])
COLUMNS = st.dictionaries(
    st.sampled_from(["image", "label", "img", "class", "path", "split", "a b", "é"]), st.sampled_from(TYPES), max_size=3
)


def column(kind: pa.DataType, cells: list[str | None]) -> pa.Array:
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([column(field.type, cells) for field in kind], fields=list(kind))
    if pa.types.is_list(kind):
        return pa.array([None if cell is None else [len(cell)] for cell in cells], kind)
    values: list[Any] = [None if cell is None else cell.encode() for cell in cells]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.array(values, kind)
    try:
        return pa.array(cells, pa.string()).cast(kind)
    except pa.ArrowException:
        return pa.nulls(len(cells), kind)


def read_all(path: Path) -> None:
    """Every row of a source, as preparing reads it."""
    source = open_source(str(path), seed=0)
    for table in source.tables():
        assert len(table.labels) == len(list(table.rows(np.arange(len(table.labels)))))
        assert all(0 <= label < len(source.classes) for label in table.labels)


@given(COLUMNS, st.lists(st.none() | CELLS, max_size=5))
@settings(max_examples=examples(150))
def test_parquet_of_any_columns_is_read_or_refused(columns: dict[str, pa.DataType], cells: list[str | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.parquet"
        pq.write_table(pa.table({name: column(kind, cells) for name, kind in columns.items()}), file)
        with contextlib.suppress(DatasetError):
            read_all(file)


def sample_parquet() -> bytes:
    file = io.BytesIO()
    images = pa.StructArray.from_arrays([pa.array([b"x" * 9] * 6), pa.array(["a"] * 6)], ["bytes", "path"])
    pq.write_table(pa.table({"image": images, "label": pa.array([0, 1] * 3)}), file)
    return file.getvalue()


WHOLE_PARQUET = sample_parquet()


@given(st.integers(0, len(WHOLE_PARQUET)), st.binary(max_size=8), st.integers(0, 8))
@settings(max_examples=examples(250))
def test_damaged_parquet_is_read_or_refused(place: int, inserted: bytes, removed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.parquet"
        file.write_bytes(WHOLE_PARQUET[:place] + inserted + WHOLE_PARQUET[place + removed :])
        with contextlib.suppress(DatasetError):
            read_all(file)


# Images

SIDES = st.integers(0, 64) | st.integers(MAX_PIXELS, 2**31 - 1)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def decoded(data: bytes) -> Image.Image | None:
    try:
        return decode_rgb(data)
    except DatasetError:
        return None


@given(SIDES, SIDES, st.integers(0, 17), st.integers(0, 7), st.binary(max_size=64))
@settings(max_examples=examples(250))
def test_an_image_that_claims_anything_is_within_the_bounds_or_refused(
    width: int, height: int, depth: int, colour: int, rows: bytes
) -> None:
    found = decoded(png(width, height, depth, colour, rows))
    assert found is None or (found.mode == "RGB" and 0 < found.width * found.height <= MAX_PIXELS)


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]), st.data())
@settings(max_examples=examples(150))
def test_an_image_with_bytes_put_in_or_taken_out_is_within_the_bounds_or_refused(form: str, data: st.DataObject) -> None:
    file = io.BytesIO()
    Image.fromarray((np.arange(768) % 256).astype(np.uint8).reshape(16, 16, 3)).save(file, form)
    whole = file.getvalue()
    place = data.draw(st.integers(0, len(whole)))
    damaged = whole[:place] + data.draw(st.binary(max_size=12)) + whole[place + data.draw(st.integers(0, 12)) :]
    found = decoded(damaged)
    assert found is None or (found.mode == "RGB" and 0 < found.width * found.height <= MAX_PIXELS)
