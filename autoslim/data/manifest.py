"""Manifests: a path, a label and perhaps a split for each image (`manifest_file`); paths are relative to the manifest."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autoslim.core.confine import confined
from autoslim.data.assemble import Part, assemble, no_labels
from autoslim.data.columns import Columns
from autoslim.data.image_file import ImageFinder, exists, read_image_file
from autoslim.data.labels import coded_column
from autoslim.data.links import check_inside
from autoslim.data.manifest_file import SPLIT, SUFFIXES, check_size, describe_header, read_columns
from autoslim.data.path_list import PathList, path_array, texts_of
from autoslim.data.shards import beside
from autoslim.data.split_names import NAMES, folders_by_split, split_named
from autoslim.data.table import Indices, Row, Source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError

_LOOKED_AT = 100
"""Images that are looked for at once: if none of the first ones is there, paths are relative to something else."""


def read_manifest(path: Path, wanted: Wanted) -> Source:
    """One manifest, with a column `split` or without; missing splits are taken from train."""
    table = _Table.read(path, path.parent, wanted)
    return _source(str(path), table.columns, table.by_split(), [path], wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifests:
    """A manifest for each split, such as `train.csv` and `val.csv`."""

    by_split: dict[str, Path]


def find_manifests(root: Path) -> Manifests | None:
    """The manifests of a folder that are named like splits, or lie in its folders of splits as the hub has them; None where there is none
    for train, or folders of classes are there.

    Raises:
        DatasetError: for two manifests of one split.
    """
    entries = [path for path in root.iterdir() if not path.name.startswith(".")]
    folders = [path for path in entries if split_named(path.name) and path.is_dir()]
    if any(split_named(path.name) == "train" for path in folders):
        return _beside_images(root, folders)
    by_split: dict[str, Path] = {}
    for path in sorted(path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file()):
        split = split_named(path.stem)
        if split in by_split:
            raise DatasetError(
                f"{root} has both {by_split[split].name} and {path.name}; allowed: one manifest for the {split} split"
            )
        if split is not None:
            by_split[split] = path
    if "train" not in by_split:
        return None
    return Manifests(by_split=by_split)


def _beside_images(root: Path, folders: list[Path]) -> Manifests | None:
    """The hub's `imagefolder` with labels: a `metadata.csv` or `metadata.jsonl` among the images of each split."""
    found: dict[str, Path] = {}
    for split, folder in folders_by_split(root, folders).items():
        # A link that leads out is refused by whoever reads the folder.
        if confined(folder, root) is None:
            return None
        tables = [folder / f"metadata{suffix}" for suffix in SUFFIXES if (folder / f"metadata{suffix}").is_file()]
        if not tables or describe_header(tables[0]) is not None:
            return None
        found[split] = tables[0]
    return Manifests(by_split=found)


def read_manifests(root: Path, found: Manifests, wanted: Wanted) -> Source:
    """The splits of `find_manifests`. Links to manifests outside the root are refused."""
    by_split = found.by_split
    for path in by_split.values():
        check_inside(root, path)
    first = _Table.read(by_split["train"], root, wanted).columns
    parts: dict[str, list[Part]] = {}
    for split, path in by_split.items():
        table = _Table.read(path, root, first.again(wanted))
        if table.splits is not None:
            raise DatasetError(
                f"{path} has a column {SPLIT}, and its name says a split; allowed: one of both, or the file alone as --data"
            )
        parts[split] = [table.part(np.arange(len(table.paths)), str(path))]
    return _source(str(root), first, parts, list(by_split.values()), wanted, root=root)


def line_count(path: Path, most: int) -> int:
    """An upper bound on the images that a manifest names; counting ends above `most`."""
    check_size(path)
    found = 0
    with path.open("rb") as file:
        while found <= most and (block := file.read(2**20)):
            found += block.count(b"\n")
    return found


def _source(
    name: str,
    columns: Columns,
    parts: dict[str, list[Part]],
    files: list[Path],
    wanted: Wanted,
    *,
    root: Path | None = None,
) -> Source:
    images = [PathList(Path(), [path_array(str(path) for path in part.files())]) for found in parts.values() for part in found]
    _check_some_exist(name, list(itertools.islice((Path(path) for some in images for path in some), _LOOKED_AT)))
    not_used = () if root is None else beside(root, itertools.chain(files, (Path(path) for some in images for path in some)))
    # Said because folders beside them might be meant as classes.
    chosen = (
        () if root is None else (f"the images of {', '.join(str(path.relative_to(root)) for path in files)}, not the folders",)
    )
    return assemble(
        name,
        parts,
        labelled=wanted.labelled,
        files=[*files, *images],
        not_used=(*columns.not_used, *not_used),
        chosen=(*chosen, *columns.chosen),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Table:
    """The columns of a manifest that are used, as Arrow arrays of texts (N,)."""

    path: Path
    columns: Columns
    finder: ImageFinder
    paths: Any
    labels: Any
    splits: Any

    @classmethod
    def read(cls, path: Path, root: Path, wanted: Wanted) -> _Table:
        table, columns = read_columns(path, wanted)
        found = cls(
            path=path,
            columns=columns,
            finder=ImageFinder.of(root, path.parent),
            paths=table[columns.image],
            labels=None if columns.label is None else table[columns.label],
            splits=table[SPLIT] if SPLIT in table.column_names else None,
        )
        found._check_paths()
        return found

    def _check_paths(self) -> None:
        for row, text in enumerate(texts_of(self.paths)):
            if not text:
                raise DatasetError(f"{self.path}, row {row}: the path is missing")
            if not self.finder.is_lexically_inside(text):
                raise DatasetError(
                    f"{self.path}, row {row}: {text[:200]!r} leads out of {self.finder.root}; allowed: paths in that folder, "
                    "relative to the manifest"
                )

    def by_split(self) -> dict[str, list[Part]]:
        if self.splits is None:
            return {"train": [self.part(np.arange(len(self.paths)), str(self.path))]}
        encoded = self.splits.combine_chunks().dictionary_encode()
        given = encoded.dictionary.to_pylist()
        codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False))
        splits = {text: split_named(text.strip()) for text in given}
        odd = [text for text, split in splits.items() if split is None]
        if odd or (codes < 0).any():
            allowed = ", ".join(name for names in NAMES.values() for name in names)
            raise DatasetError(f"{self.path}: column {SPLIT} has {(odd or [''])[0]!r}; allowed, in any case: {allowed}")
        parts = {}
        for split in NAMES:
            rows = np.flatnonzero(np.isin(codes, [code for code, text in enumerate(given) if splits[text] == split]))
            if len(rows):
                parts[split] = [self.part(rows, f"{self.path} ({split})")]
        if "train" not in parts:
            raise DatasetError(
                f"{self.path} has no image of train in its column {SPLIT} but only of {', '.join(parts) or 'none'}"
            )
        return parts

    def part(self, chosen: Indices, name: str) -> Part:
        where = f"{self.path}: column {self.columns.label}"
        labels = no_labels(len(chosen)) if self.labels is None else coded_column(self.labels.take(pa.array(chosen)), where)
        paths = self.paths.take(pa.array(chosen))
        return Part(
            name=name,
            labels=labels,
            rows=functools.partial(self._rows, paths, chosen),
            files=functools.partial(self._files, paths),
        )

    def _rows(self, paths: Any, chosen: Indices, wanted: Indices) -> Iterator[Row]:
        for row in map(int, wanted):
            text = paths[row].as_py()
            yield row, read_image_file(self._path_of(text, int(chosen[row]))), f"{self.path.name}:{chosen[row]} ({text})"

    def _files(self, paths: Any) -> Iterator[Path]:
        return (self.finder.base / text for text in texts_of(paths))

    def _path_of(self, text: str, row: int) -> Path:
        return self.finder.path_of(text, f"{self.path}, row {row},")


def _check_some_exist(name: str, first: Sequence[Path]) -> None:
    if first and not any(exists(path) for path in first):
        raise DatasetError(
            f"{name}: none of the first {len(first)} images exists, such as {first[0]}; paths are relative to the manifest's folder, "
            "with the ends of the files' names"
        )
