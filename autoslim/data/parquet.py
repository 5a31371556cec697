"""Parquet in the Hugging Face image layout: `image: struct<bytes, path>`, `label: int64`, class names in the metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autoslim.data.links import check_inside
from autoslim.data.split_names import NAMES, split_of_file
from autoslim.data.table import NEEDS_LABELS, Indices, Row, Source, Table, joined
from autoslim.errors import DatasetError

EXPECTED = "expected the columns image: struct<bytes: binary, path: string> and label: int64"
IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""How the hub stores an encoded image."""

MAX_ROWS = 50_000_000
"""Bound against a small file with billions of rows: labels compress that well."""

MAX_EXPANSION = 200
"""Bound on the unpacked size as a multiple of the file's: images are compressed already."""

_BATCH_ROWS = 16
"""Rows that are in memory at once: an image may have 64 MiB."""

_ALLOWED_ANYWAY = 64 * 2**20
"""Bytes that any file may unpack to, so that small files of labels pass."""


def read_file(path: Path, *, labelled: bool = True) -> Source:
    """A source of one file, from which the other splits are taken."""
    if not labelled:
        return Source(name=str(path), classes=(), labelled=False, train=_images_alone(path), files=(path,)).check()
    names = _class_names(path)
    train = _table(path)
    return Source(name=str(path), classes=names or _numbered(train), train=train, files=(path,)).check()


def files_in(root: Path) -> list[Path]:
    """The Parquet files of a folder, or of the folder `data` in it, as the hub lays them out."""
    return sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))


def read_folder(root: Path, *, labelled: bool = True) -> Source:
    """A file for each split, or several, its shards (`train-00000-of-00002.parquet`); only those of train have to be there.

    Links to files outside the root are refused.
    """
    files = files_in(root)
    shards = {split: [path for path in files if split_of_file(path) == split] for split in NAMES}
    present = {split: paths for split, paths in shards.items() if paths}
    if "train" not in present:
        raise DatasetError(
            f"{root} has {', '.join(path.name for path in files[:5])} but no train.parquet, nor shards such as train-00000-of-00002.parquet"
        )
    used = [path for paths in present.values() for path in paths]
    for path in used:
        check_inside(root, path)
    tables = {
        split: joined([_table(path) if labelled else _images_alone(path) for path in paths], f"{root} ({split})")
        for split, paths in present.items()
    }
    return Source(
        name=str(root),
        classes=_classes_of(used, tables["train"]) if labelled else (),
        labelled=labelled,
        train=tables["train"],
        validation=tables.get("validation"),
        test=tables.get("test"),
        files=tuple(used),
        not_used=tuple(f"the file {path.name}, which is no split" for path in files if path not in used),
    ).check()


def _classes_of(files: list[Path], train: Table) -> tuple[str, ...]:
    """Those of the first file, one of train's; the others must not name different ones."""
    names = _class_names(files[0])
    for path in files:
        _check_same_classes(path, _class_names(path), names, files[0])
    return names or _numbered(train)


def row_count(path: Path) -> int:
    """From the file's footer alone. Raises DatasetError for a file that is not Parquet."""
    with _open(path) as file:
        rows: int = file.metadata.num_rows
    return rows


def _check_same_classes(path: Path, names: tuple[str, ...], wanted: tuple[str, ...], train: Path) -> None:
    if names and wanted and names != wanted:
        odd = sorted(set(names) ^ set(wanted)) or ["the same names in another order"]
        raise DatasetError(f"{path.name} and {train.name} in {path.parent} have different classes: {', '.join(odd[:5])}")


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is not a readable Parquet file ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_schema(path: Path, schema: Any) -> None:
    _check_images(path, schema)
    if "label" not in schema.names:
        raise DatasetError(f"{path} has no column 'label' but {', '.join(schema.names)}; {EXPECTED}; {NEEDS_LABELS}")
    label = schema.field("label").type
    if not pa.types.is_integer(label):
        raise DatasetError(f"{path}: column label is {label}; {EXPECTED}")


def _check_images(path: Path, schema: Any) -> None:
    if "image" not in schema.names:
        raise DatasetError(f"{path} has no column 'image' but {', '.join(schema.names) or 'none'}; {EXPECTED}")
    image = schema.field("image").type
    fields = {field.name: field.type for field in image} if pa.types.is_struct(image) else {}
    encoded = fields.get("bytes", pa.null())
    if not (pa.types.is_binary(encoded) or pa.types.is_large_binary(encoded)):
        raise DatasetError(f"{path}: column image is {image}; {EXPECTED}")


def _check_size(path: Path, metadata: Any) -> None:
    if metadata.num_rows > MAX_ROWS:
        raise DatasetError(f"{path} has {metadata.num_rows:,} rows; allowed: at most {MAX_ROWS:,}")
    unpacked, size = (
        sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)),
        path.stat().st_size,
    )
    if unpacked > MAX_EXPANSION * size + _ALLOWED_ANYWAY:
        raise DatasetError(f"{path} has {size:,} bytes and unpacks to {unpacked:,}; allowed: {MAX_EXPANSION} times its size")


def _table(path: Path) -> Table:
    with _open(path) as file:
        _check_schema(path, file.schema_arrow)
        _check_size(path, file.metadata)
        try:
            column = file.read(columns=["label"])["label"].combine_chunks().cast(pa.int64())
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{path}: labels cannot be read ({_first_line(error)}); {EXPECTED}") from error
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DatasetError(f"{path}, row {row}: the label is null; {EXPECTED}")
    labels = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)
    return Table(name=str(path), labels=labels, rows=lambda wanted: _rows(path, wanted))


def _images_alone(path: Path) -> Table:
    """The column `image`, whatever other columns there are; all labels are 0."""
    with _open(path) as file:
        _check_images(path, file.schema_arrow)
        _check_size(path, file.metadata)
        labels = np.zeros(file.metadata.num_rows, np.int64)
    return Table(name=str(path), labels=labels, rows=lambda wanted: _rows(path, wanted))


def _rows(path: Path, wanted: Indices) -> Iterator[Row]:
    chosen = set(wanted.tolist())
    row = 0
    try:
        with _open(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=["image"]):
                images = batch.column("image")
                for image in images:
                    if row in chosen:
                        yield _row(path, row, image)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read after row {row} ({_first_line(error)})") from error


def _row(path: Path, row: int, image: Any) -> Row:
    value = image.as_py() or {}
    name = f"{path.name}:{row}"
    return row, value.get("bytes") or b"", f"{name} ({value['path']})" if value.get("path") else name


def class_names_metadata(names: Sequence[str]) -> dict[str, str]:
    """The metadata of a schema with class names, as the hub writes it."""
    return {"huggingface": json.dumps({"info": {"features": {"label": {"names": list(names)}}}})}


def _class_names(path: Path) -> tuple[str, ...]:
    """Names from the schema metadata; empty where there are none."""
    with _open(path) as file:
        text = (file.schema_arrow.metadata or {}).get(b"huggingface")
    if text is None:
        return ()
    try:
        names = json.loads(text)["info"]["features"]["label"].get("names", [])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: metadata `huggingface` has no info.features.label as a JSON object") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{path}: metadata `huggingface` has class names {names!r}; expected a list of strings")
    return tuple(names)


def _numbered(table: Table) -> tuple[str, ...]:
    """Labels as names, for a file without class names."""
    top = int(table.labels.max(initial=-1)) + 1
    # A label beyond the number of rows leaves some class empty, and a name for each would need too much memory.
    if top > len(table.labels) + 1:
        raise DatasetError(
            f"{table.name} has {len(table.labels)} rows but labels up to {top - 1}; without class names in the metadata "
            "labels must count up from 0, every class with some images"
        )
    return tuple(str(number) for number in range(top))
