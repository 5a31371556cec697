"""Folders of image files: `root/<split>/<class>/*` or `root/<class>/*`, and without labels images at any depth.

Links to files outside the root are refused.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from autoslim.data.class_folders import LEFTOVERS, joined_folders, refuse_one, refuse_parts
from autoslim.data.decode import SUFFIXES
from autoslim.data.image_file import read_image_file
from autoslim.data.image_listing import ListedImages, is_image, kind_of, list_images
from autoslim.data.links import check_inside
from autoslim.data.manifest_file import SUFFIXES as MANIFESTS
from autoslim.data.manifest_file import describe_header
from autoslim.data.path_list import PathList
from autoslim.data.split_names import folders_by_split
from autoslim.data.table import NEEDS_LABELS, Indices, Row, Source, Table
from autoslim.errors import DatasetError

_OFFER = ", or a manifest:"

_LOOKED_INTO = 5
"""Tables whose columns are looked at for a hint."""


def read_image_folder(root: Path, *, labelled: bool = True, token_labels: Path | None = None) -> Source:
    """Reads the tree at `root`; classes are its folders in alphabetical order. `token_labels` is a folder of labels of the training images'
    patches. Raises DatasetError with the folder that is wrong."""
    splits = _split_folders(root)
    if not labelled:
        return _unlabelled(root, splits)
    left = _Left(root, splits)
    listed = {split: _list_classes(root, folder, left) for split, folder in splits.items()}
    classes = tuple(listed["train"])
    for split, folder in splits.items():
        odd = sorted(set(listed[split]) ^ set(classes))
        if odd:
            raise DatasetError(f"{folder} and {splits['train']} have different classes: {', '.join(odd[:5])}")
    images = {split: PathList(root, [found.places for found in classes_of.values()]) for split, classes_of in listed.items()}
    tables = {split: _table(splits[split], images[split], [len(found) for found in listed[split].values()]) for split in splits}
    files = tuple(images.values())
    if token_labels is not None:
        # Here, because it imports PyTorch, and the processes that decode images do without.
        from autoslim.data.token_label_folder import TokenLabelFolder

        patches = TokenLabelFolder(token_labels, images["train"], splits["train"])
        tables["train"] = dataclasses.replace(tables["train"], token_labels=patches.read)
        files += (patches.files,)
    return Source(
        name=str(root),
        classes=classes,
        train=tables["train"],
        validation=tables.get("validation"),
        test=tables.get("test"),
        files=files,
        not_used=left.described(),
        chosen=joined_folders(listed["train"]),
    ).check()


def _unlabelled(root: Path, splits: dict[str, Path]) -> Source:
    """Every image below the folders of the splits."""
    left = _Left(root, splits)
    listed = {split: list_images(root, folder, left.note) for split, folder in splits.items()}
    for split, found in listed.items():
        if not len(found):
            raise DatasetError(f"{splits[split]} has no file ending in {', '.join(SUFFIXES)}, at any depth")
    images = {split: PathList(root, [found.places]) for split, found in listed.items()}
    tables = {split: _table(splits[split], paths, [len(paths)]) for split, paths in images.items()}
    return Source(
        name=str(root),
        classes=(),
        labelled=False,
        train=tables["train"],
        validation=tables.get("validation"),
        test=tables.get("test"),
        files=tuple(images.values()),
        not_used=left.described(),
    ).check()


def _split_folders(root: Path) -> dict[str, Path]:
    return folders_by_split(root, _folders_in(root)) or {"train": root}


def _folders_in(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, nor left by an archive."""
    return sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name not in LEFTOVERS
    )


def _files_in(folder: Path) -> list[Path]:
    """The files in `folder` itself that are not hidden."""
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


class _Left:
    """Counts what lies in a data set's folder and is no image of it, while the images are listed."""

    def __init__(self, root: Path, splits: dict[str, Path]) -> None:
        self._folders: list[str] = []
        self._counts: Counter[str] = Counter()
        if splits["train"] == root:
            return
        beside = [path for path in _folders_in(root) if path not in splits.values()]
        self._folders = [f"the folder {path.name}, which is no split" for path in beside]
        for _ in _files_in(root):
            self.note("files beside the splits")

    def note(self, what: str) -> None:
        self._counts[what] += 1

    def described(self) -> tuple[str, ...]:
        return (*self._folders, *(f"{count} {what}" for what, count in sorted(self._counts.items())))


def _list_classes(root: Path, folder: Path, left: _Left) -> dict[str, ListedImages]:
    check_inside(root, folder)
    found = {path.name: list_images(root, path, left.note) for path in _folders_in(folder)}
    if not found:
        _refuse_without_classes(root, folder)
    refuse_one(root, folder, found)
    refuse_parts(folder, list(found))
    for name, images in found.items():
        if not len(images):
            raise DatasetError(
                f"class {name!r} is empty: {folder / name} has no file ending in {', '.join(SUFFIXES)}; if it is no class, move it out of "
                f"{folder}"
            )
    for path in _files_in(folder):
        left.note("images outside of the class folders" if is_image(path.name) else kind_of(path.name))
    return found


def _refuse_without_classes(root: Path, folder: Path) -> NoReturn:
    files, manifest = _files_in(folder), _hint(root, folder)
    if not any(is_image(path.name) for path in files) and not manifest.startswith(_OFFER):
        kinds = sorted({path.suffix.lower() for path in files if path.suffix}) or ["nothing"]
        raise DatasetError(
            f"{folder} has no images and no class folders but {', '.join(kinds[:5])}{manifest}; expected images in <class>/*, or Parquet "
            "with the columns image and label. Arrays and packed files have to be written so first"
        )
    raise DatasetError(
        f"{folder} has no class folders; expected train.parquet, train/<class>/* or <class>/* in {root}{manifest}; {NEEDS_LABELS}"
    )


def _hint(root: Path, folder: Path) -> str:
    """Says how a manifest is read that lies in one of the folders, or why a table there is none."""
    tables = sorted(
        path for place in dict.fromkeys((root, folder)) for path in _files_in(place) if path.suffix.lower() in MANIFESTS
    )
    others = []
    for path in tables[:_LOOKED_INTO]:
        problem = describe_header(path)
        if problem is None:
            return f"{_OFFER} --data {shlex.quote(str(path))}"
        others.append(f"{path.name} ({problem})")
    return f"; no manifest of images and labels: {', '.join(others)}" if others else ""


def _table(folder: Path, images: PathList, counts: Sequence[int]) -> Table:
    """`counts` are the numbers of images of the classes, in their order."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    return Table(name=str(folder), labels=labels, rows=lambda wanted: _rows(images, wanted))


def _rows(images: PathList, wanted: Indices) -> Iterator[Row]:
    for row in map(int, wanted):
        yield row, read_image_file(images.path(row)), images.place(row)
