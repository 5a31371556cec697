"""Folders of image files: `root/<split>/<class>/*` or `root/<class>/*`, and without labels images at any depth.

Links to files outside the root are refused.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from autoslim.data.class_folders import LEFTOVERS, joined_folders, refuse_one, refuse_parts
from autoslim.data.decode import HEIF_SUFFIXES, SUFFIXES
from autoslim.data.image_file import read_image_file
from autoslim.data.links import check_inside
from autoslim.data.manifest_file import SUFFIXES as MANIFESTS
from autoslim.data.manifest_file import describe_header
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
    tables = {split: _table(root, splits[split], list(listed[split].values())) for split in splits}
    files = tuple(path for found in listed.values() for paths in found.values() for path in paths)
    if token_labels is not None:
        # Here, because it imports PyTorch, and the processes that decode images do without.
        from autoslim.data.token_label_folder import TokenLabelFolder

        images = [path for paths in listed["train"].values() for path in paths]
        patches = TokenLabelFolder(token_labels, images, splits["train"])
        tables["train"] = dataclasses.replace(tables["train"], token_labels=patches.read)
        files += patches.files
    return Source(
        name=str(root),
        classes=classes,
        train=tables["train"],
        validation=tables.get("validation"),
        test=tables.get("test"),
        files=files,
        not_used=left.described(),
        chosen=joined_folders(splits["train"], listed["train"]),
    ).check()


def _unlabelled(root: Path, splits: dict[str, Path]) -> Source:
    """Every image below the folders of the splits."""
    left = _Left(root, splits)
    listed = {split: _list_images(root, folder, left) for split, folder in splits.items()}
    for split, images in listed.items():
        if not images:
            raise DatasetError(f"{splits[split]} has no file ending in {', '.join(SUFFIXES)}, at any depth")
    tables = {split: _table(root, splits[split], [images]) for split, images in listed.items()}
    return Source(
        name=str(root),
        classes=(),
        labelled=False,
        train=tables["train"],
        validation=tables.get("validation"),
        test=tables.get("test"),
        files=tuple(path for images in listed.values() for path in images),
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


def _list_classes(root: Path, folder: Path, left: _Left) -> dict[str, list[Path]]:
    check_inside(root, folder)
    found = {path.name: _list_images(root, path, left) for path in _folders_in(folder)}
    if not found:
        _refuse_without_classes(root, folder)
    refuse_one(root, folder, found)
    refuse_parts(folder, list(found))
    for name, images in found.items():
        if not images:
            raise DatasetError(
                f"class {name!r} is empty: {folder / name} has no file ending in {', '.join(SUFFIXES)}; if it is no class, move it out of "
                f"{folder}"
            )
    for path in _files_in(folder):
        left.note("images outside of the class folders" if _is_image(path) else _kind(path))
    return found


def _refuse_without_classes(root: Path, folder: Path) -> NoReturn:
    files, manifest = _files_in(folder), _hint(root, folder)
    if not any(_is_image(path) for path in files) and not manifest.startswith(_OFFER):
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


def _list_images(root: Path, folder: Path, left: _Left) -> list[Path]:
    check_inside(root, folder)
    images: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        # Thumbnails and checkpoints of notebooks are no images of the user's.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if Path(parent, name).is_symlink():
                left.note("links to folders, which are not followed")
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            if _is_image(path):
                check_inside(root, path)
                images.append(path)
            else:
                left.note(_kind(path))
    return sorted(images)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    hint = " (read where the package pillow-heif is installed)" if suffix in HEIF_SUFFIXES else ""
    return f"files ending in {suffix}{hint}" if suffix else "files without a suffix"


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _table(root: Path, folder: Path, images: list[list[Path]]) -> Table:
    labels = np.repeat(np.arange(len(images)), [len(paths) for paths in images]).astype(np.int64)
    flat = [path for paths in images for path in paths]
    return Table(name=str(folder), labels=labels, rows=lambda wanted: _rows(root, flat, wanted))


def _rows(root: Path, images: list[Path], wanted: Indices) -> Iterator[Row]:
    for row in wanted.tolist():
        path = images[row]
        yield row, read_image_file(path), str(path.relative_to(root))
