"""Data sets of the Hugging Face hub by their name, `hf:owner/name`, or a folder in their format, through the library `datasets`.

No code of a data set is run: `datasets` has none but its own readers since its version 4.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from autoslim.core.extras import needs_extra
from autoslim.data.assemble import Part, assemble, no_labels
from autoslim.data.columns import Columns, choose_columns, given_names
from autoslim.data.image_file import ImageFinder
from autoslim.data.labels import coded_column
from autoslim.data.split_names import split_named
from autoslim.data.table import Indices, Row, Source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError, first_line
from autoslim.storage import is_uri

PREFIX = "hf:"
_SHOWN = 20
_FILES = re.compile(r"hf://datasets/([^/@]+/[^/@]+)")


def hub_name(source: str) -> str | None:
    """`owner/name` of a data set of the hub, also where its files are read (`hf://datasets/owner/name/...`); None for any other source."""
    found = _FILES.match(source)
    if found is not None:
        return found[1]
    return source.removeprefix(PREFIX) if source.startswith(PREFIX) and not is_uri(source) else None


def read_hub(source: str, wanted: Wanted) -> Source:
    """The splits of a data set; downloaded into the cache of `datasets`, unless they are there.

    Raises:
        MissingExtraError: where `datasets` is not installed.
        DatasetError: for a data set that cannot be loaded or read, or one of several configurations that has to be named.
    """
    with needs_extra("hub", f"--data {source}"):
        import datasets
        import huggingface_hub.constants
    name = source.removeprefix(PREFIX)
    try:
        # Data alone: `datasets` has run no code of a data set since its fourth version. A user pins a revision by downloading it.
        loaded = datasets.load_dataset(name, _configuration(datasets, source, name, wanted))  # nosec B615
    except DatasetError:
        raise
    except (OSError, ValueError, TypeError, LookupError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(
            f"{source} cannot be loaded ({first_line(error)}); give the name of a data set on the hub, or log in with `hf auth login`"
        ) from error
    by_split, left = _by_split(source, loaded)
    roots = [
        Path(huggingface_hub.constants.HF_HUB_CACHE),
        Path(datasets.config.HF_CACHE_HOME),
        Path(datasets.config.HF_DATASETS_CACHE),
        Path(datasets.config.DOWNLOADED_DATASETS_PATH),
    ]
    return _source(source, by_split, [*roots, *([Path(name)] if Path(name).is_dir() else [])], wanted, left)


def _configuration(datasets: Any, source: str, name: str, wanted: Wanted) -> str | None:
    names: list[str] = datasets.get_dataset_config_names(name)
    shown = ", ".join(names[:_SHOWN])
    if wanted.config is not None and wanted.config not in names:
        raise DatasetError(f"{source} has no configuration {wanted.config!r}; allowed for --data-config: {shown}")
    if wanted.config is None and len(names) > 1:
        raise DatasetError(f"{source} has the configurations {shown}; choose one with --data-config {names[0]}")
    return wanted.config


def _by_split(source: str, loaded: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    by_split: dict[str, Any] = {}
    left = []
    for name, dataset in loaded.items():
        split = split_named(str(name))
        if split is None or split in by_split:
            left.append(f"the split {name}")
        else:
            by_split[split] = dataset
    if "train" not in by_split:
        raise DatasetError(f"{source} has the splits {', '.join(map(str, loaded))} but no train")
    return by_split, tuple(left)


def _source(source: str, by_split: dict[str, Any], roots: list[Path], wanted: Wanted, left: tuple[str, ...]) -> Source:
    first = choose_columns(by_split["train"].features.arrow_schema, wanted, source)
    parts = {}
    for split, dataset in by_split.items():
        where = f"{source} ({split})"
        columns = choose_columns(dataset.features.arrow_schema, first.again(wanted), where)
        parts[split] = [_Split(where=where, dataset=dataset, columns=columns, roots=roots).part()]
    return assemble(
        source,
        parts,
        labelled=wanted.labelled,
        files=[Path(file["filename"]) for dataset in by_split.values() for file in dataset.cache_files],
        not_used=(*first.not_used, *left),
        chosen=first.chosen,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Split:
    """One split; `roots` are the folders in which files of images may lie."""

    where: str
    dataset: Any
    columns: Columns
    roots: list[Path]

    def part(self) -> Part:
        label = self.columns.label
        if label is None:
            return Part(name=self.where, labels=no_labels(len(self.dataset)), rows=self._rows)
        return Part(
            name=self.where,
            labels=coded_column(self.dataset.data.table[label], f"{self.where}: column {label}"),
            rows=self._rows,
            classes=given_names(self.dataset.features.arrow_schema, label, self.where),
        )

    def _rows(self, wanted: Indices) -> Iterator[Row]:
        # The stored column: through the library, an image would be decoded.
        images = self.dataset.data.table[self.columns.image]
        for row in wanted.tolist():
            name = f"{self.where}:{row}"
            data, path = self._read(images[row].as_py(), name)
            yield row, data, f"{name} ({Path(path).name})" if path else name

    def _read(self, value: Any, name: str) -> tuple[bytes, str | None]:
        """A file in one of the folders: whoever wrote a data set must not choose what else is read."""
        for root in self.roots[:-1]:
            try:
                data, path = ImageFinder.of(root, root).read(value, name)
            except DatasetError:
                continue
            if data:
                return data, path
        return ImageFinder.of(self.roots[-1], self.roots[-1]).read(value, name)
