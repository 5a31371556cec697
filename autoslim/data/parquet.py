"""Parquet: the Hugging Face hub's (`image: struct<bytes, path>`, `label: int64`, class names in the metadata) and others'.

Images are structs with bytes, bytes, or paths in the data set's folder; labels are numbers or texts. Labels of patches are bytes, as
`token_label_file` reads them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autoslim.data.assemble import Part, assemble, no_labels
from autoslim.data.columns import EXPECTED, Columns, check_token_labels, choose_columns, given_names, is_text
from autoslim.data.image_file import ImageFinder
from autoslim.data.labels import Coded, coded_column
from autoslim.data.path_list import PathList, path_array
from autoslim.data.shards import Shards
from autoslim.data.table import EncodedTokenLabels, Indices, Row, Source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError, first_line

SUFFIX = ".parquet"
_MAGIC = b"PAR1"
"""What a Parquet file begins with."""

IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""How the hub stores an encoded image."""

MAX_ROWS = 50_000_000
"""Bound against a small file with billions of rows: labels compress that well."""

MAX_EXPANSION = 200
"""Bound on the unpacked size as a multiple of the file's: images are compressed already."""

_BATCH_ROWS = 16
"""Rows that are in memory at once: an image may have 64 MiB."""

_BUFFER = 2**20
"""Bytes that are read of a column at once. Arrow's own way is the whole column of a row group, which may be all images of a file."""

_ALLOWED_ANYWAY = 64 * 2**20
"""Bytes that any file may unpack to, so that small files of labels pass."""


def read_file(path: Path, wanted: Wanted) -> Source:
    """A source of one file, from which the other splits are taken.

    Raises:
        DatasetError: for a file that is something else, whatever its name, or cannot be used.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC and path.suffix.lower() != SUFFIX:
            raise DatasetError(
                f"{path} is no data set that can be read; allowed: Parquet, a manifest with a row for each image (.csv, .tsv, .jsonl, "
                ".ndjson), a WebDataset .tar, or a folder. Arrays and other annotations have to be written as one of these first"
            )
    return _source(str(path), path.parent, {"train": [path]}, wanted)


def read_shards(root: Path, shards: Shards, wanted: Wanted) -> Source:
    """A file for each split, or several, its shards (`train-00000-of-00002.parquet`); only those of train have to be there.

    Links to files outside the root are refused.
    """
    if "train" not in shards.by_split:
        raise DatasetError(
            f"{root} has {', '.join(path.name for path in shards.files[:5])} but no train.parquet, nor shards such as "
            "train-00000-of-00002.parquet"
        )
    return _source(str(root), root, shards.by_split, wanted, not_used=shards.not_used, chosen=shards.chosen)


def row_count(path: Path, _: int) -> int:
    """From the file's footer alone, whatever the most that is counted. Raises DatasetError for a file that is not Parquet."""
    with _open(path) as file:
        rows: int = file.metadata.num_rows
    return rows


def _source(
    name: str,
    root: Path,
    by_split: dict[str, list[Path]],
    wanted: Wanted,
    *,
    not_used: tuple[str, ...] = (),
    chosen: tuple[str, ...] = (),
) -> Source:
    files = [_File.open(path, root, wanted) for path in by_split["train"][:1]]
    columns = files[0].columns
    parts: dict[str, list[Part]] = {}
    images: list[PathList] = []
    for split, paths in by_split.items():
        again = columns.again(wanted)
        # Only training reads labels of patches.
        again = again if split == "train" else dataclasses.replace(again, token_labels=None)
        opened = [_File.open(path, root, again) for path in paths]
        parts[split] = [file.part() for file in opened]
        images += [PathList(Path(), [path_array(str(path) for path in part.files())]) for part in parts[split]]
    return assemble(
        name,
        parts,
        labelled=wanted.labelled,
        files=[*(path for paths in by_split.values() for path in paths), *images],
        not_used=(*columns.not_used, *not_used),
        chosen=(*chosen, *columns.chosen),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    """One file whose schema and size have been checked."""

    path: Path
    schema: Any
    rows: int
    columns: Columns
    finder: ImageFinder
    token_labels: str | None

    @classmethod
    def open(cls, path: Path, root: Path, wanted: Wanted) -> _File:
        with _open(path) as file:
            schema = file.schema_arrow
            tokens = wanted.token_label_column
            check_token_labels(schema, wanted, str(path))
            columns = choose_columns(schema, wanted, str(path), known=() if tokens is None else (tokens,))
            _check_size(path, file.metadata)
            finder = ImageFinder.of(root, path.parent)
            return cls(path=path, schema=schema, rows=file.metadata.num_rows, columns=columns, finder=finder, token_labels=tokens)

    def part(self) -> Part:
        label = self.columns.label
        if label is None:
            return Part(name=str(self.path), labels=no_labels(self.rows), rows=self._rows, files=self._named_images)
        return Part(
            name=str(self.path),
            labels=self._labels(label),
            rows=self._rows,
            classes=given_names(self.schema, label, str(self.path)),
            files=self._named_images,
            token_labels=None if self.token_labels is None else functools.partial(self._token_labels, self.token_labels),
        )

    def _labels(self, label: str) -> Coded:
        where = f"{self.path}: column {label}"
        # As a dictionary, which a text column of a Parquet file mostly is: repeated texts are not written out.
        texts = [label] if is_text(self.schema.field(label).type) else []
        try:
            with _open(self.path, read_dictionary=texts) as file:
                column = file.read(columns=[label])[label]
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{self.path}: labels cannot be read ({first_line(error)}); {EXPECTED}") from error
        return coded_column(column, where)

    def _named_images(self) -> Iterator[Path]:
        """The files that the column names by paths, by which a change of them is seen."""
        for text in self._paths():
            if text is not None:
                yield self.finder.path_of(text, str(self.path))

    def _paths(self) -> Iterator[str | None]:
        kind = self.schema.field(self.columns.image).type
        if is_text(kind):
            for batch in self._batches([self.columns.image], rows=4096):
                yield from batch.column(0).to_pylist()
        elif pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 and self._lacks_bytes():
            for batch in self._batches([self.columns.image], rows=_BATCH_ROWS):
                yield from (image["path"] for image in batch.column(0).to_pylist() if image and not image["bytes"])

    def _lacks_bytes(self) -> bool:
        """Whether some structs have no bytes, by the file's statistics: the images themselves are not read twice for the answer."""
        with _open(self.path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        columns = [group.column(place) for group in groups for place in range(group.num_columns)]
        stored = [column for column in columns if column.path_in_schema == f"{self.columns.image}.bytes"]
        return any(column.statistics is None or column.statistics.null_count != 0 for column in stored)

    def _rows(self, wanted: Indices) -> Iterator[Row]:
        for row, image in self._values(self.columns.image, wanted):
            where = f"{self.path.name}:{row}"
            data, path = self.finder.read(image, where)
            yield row, data, f"{where} ({path})" if path else where

    def _token_labels(self, column: str, wanted: Indices) -> Iterator[EncodedTokenLabels]:
        for row, data in self._values(column, wanted):
            yield data or b"", f"{self.path.name}:{row}, column {column}"

    def _values(self, column: str, wanted: Indices) -> Iterator[tuple[int, Any]]:
        first, start = 0, 0
        for batch in self._batches([column], rows=_BATCH_ROWS):
            # They are sorted: those of a batch are the next ones.
            stop = int(np.searchsorted(wanted, first + batch.num_rows))
            values = batch.column(0)
            for row in map(int, wanted[start:stop]):
                yield row, values[row - first].as_py()
            first, start = first + batch.num_rows, stop

    def _batches(self, columns: Sequence[str], *, rows: int) -> Iterator[Any]:
        row = 0
        try:
            with _open(self.path, buffer_size=_BUFFER) as file:
                for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
                    # A path that is not UTF-8 is found here.
                    batch.validate(full=True)
                    yield batch
                    row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{self.path} cannot be read after row {row} ({first_line(error)})") from error


def _open(path: Path, **options: Any) -> Any:
    try:
        return pq.ParquetFile(path, **options)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is not a readable Parquet file ({first_line(error)})") from error


def _check_size(path: Path, metadata: Any) -> None:
    if metadata.num_rows > MAX_ROWS:
        raise DatasetError(f"{path} has {metadata.num_rows:,} rows; allowed: at most {MAX_ROWS:,}")
    unpacked, size = (
        sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)),
        path.stat().st_size,
    )
    if unpacked > MAX_EXPANSION * size + _ALLOWED_ANYWAY:
        raise DatasetError(f"{path} has {size:,} bytes and unpacks to {unpacked:,}; allowed: {MAX_EXPANSION} times its size")


def class_names_metadata(names: Sequence[str]) -> dict[str, str]:
    """The metadata of a schema with class names of the column `label`, as the hub writes it."""
    return {"huggingface": json.dumps({"info": {"features": {"label": {"names": list(names)}}}})}
