"""Folders of data files by split, as the hub lays them out, and what lies beside those that are used.

The files of one split are `train.parquet`, shards (`train-00000-of-00002.parquet`) or all files of a folder `train/`, in the folder, in
`data/` below it, or in the folder of one of several configurations.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from autoslim.core.confine import confined
from autoslim.data.decode import SUFFIXES
from autoslim.data.links import check_inside
from autoslim.data.split_names import NAMES, folders_by_split, split_named, split_of_file
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError

HUB_FOLDER = "data"
_SHOWN = 20
"""Configurations that a message lists, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shards:
    """`files` are all of them; `by_split` those that are used."""

    files: tuple[Path, ...]
    by_split: dict[str, list[Path]]
    not_used: tuple[str, ...]
    chosen: tuple[str, ...] = ()

    @property
    def used(self) -> list[Path]:
        return [path for paths in self.by_split.values() for path in paths]


SplitOf = Callable[[Path], str | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """Data files of one folder, in it or in its folders of splits."""

    folder: Path
    files: tuple[Path, ...]
    by_split: dict[str, list[Path]]


def find_shards(root: Path, suffix: str, wanted: Wanted, *, split_of: SplitOf = split_of_file) -> Shards | None:
    """The files below `root` whose names end in `suffix`; None where there are none. Reads names only.

    Raises:
        DatasetError: for several configurations without one that is wanted, one that does not exist, or a link that leads out of `root`.
    """
    listing = _list(root)
    found = None if wanted.config is not None else _in_folder(root, root, listing, suffix, split_of)
    if found is not None:
        return _described(root, listing, found)
    configurations = _configurations(root, listing, suffix, split_of)
    if not configurations:
        return None
    name = _configuration(root, sorted(configurations), wanted)
    guessed = wanted.config is None and name != HUB_FOLDER
    others = [found.folder for other, found in configurations.items() if other != name]
    return dataclasses.replace(
        _described(root, listing, configurations[name], others=others),
        chosen=(f"the configuration {name}",) if guessed else (),
    )


def _in_folder(root: Path, folder: Path, listing: _Listing, suffix: str, split_of: SplitOf) -> _Found | None:
    """Files in `folder` itself, or all those in its folders of splits where these have no folders of classes."""
    files = listing.ending(suffix)
    if files:
        return _Found(folder=folder, files=tuple(files), by_split=_by_split(files, split_of))
    named = [path for path in listing.folders if split_named(path.name)]
    inside: dict[Path, list[Path]] = {}
    for path in named:
        # What a link leads out to is not looked at here; whoever reads the folder refuses it.
        found = _list(path, until_image=True) if confined(path, root) else _Listing(files=(), folders=())
        inside[path] = found.ending(suffix) if found.is_leaf else []
    if not any(inside.values()):
        return None
    by_split = {split: inside[path] for split, path in folders_by_split(folder, named).items() if inside[path]}
    return _Found(folder=folder, files=tuple(file for files in inside.values() for file in files), by_split=by_split)


def _by_split(files: Iterable[Path], split_of: SplitOf) -> dict[str, list[Path]]:
    shards = {split: [path for path in files if split_of(path) == split] for split in NAMES}
    return {split: paths for split, paths in shards.items() if paths}


def _configurations(root: Path, listing: _Listing, suffix: str, split_of: SplitOf) -> dict[str, _Found]:
    """By name, the folders of `root` with files of a split to train on, and what they hold."""
    folders = {}
    for folder in listing.folders:
        if split_named(folder.name) or confined(folder, root) is None:
            continue
        found = _in_folder_or_data(root, folder, suffix, split_of)
        # The hub's own folder is taken whatever its files are called, so that the error can name them.
        if found is not None and ("train" in found.by_split or folder.name == HUB_FOLDER):
            folders[folder.name] = dataclasses.replace(found, folder=folder)
    return folders


def _in_folder_or_data(root: Path, folder: Path, suffix: str, split_of: SplitOf) -> _Found | None:
    # Images may lie beside the hub's own files, which name them.
    listing = _list(folder, until_image=folder.name != HUB_FOLDER)
    found = _in_folder(root, folder, listing, suffix, split_of)
    below = folder / HUB_FOLDER
    if found is not None or below not in listing.folders or confined(below, root) is None:
        return found
    return _in_folder(root, below, _list(below), suffix, split_of)


def _configuration(root: Path, names: list[str], wanted: Wanted) -> str:
    shown = ", ".join(names[:_SHOWN])
    if wanted.config is not None and wanted.config not in names:
        raise DatasetError(f"{root} has no configuration {wanted.config!r}; allowed for --data-config: {shown}")
    if wanted.config is not None:
        return wanted.config
    if len(names) > 1:
        raise DatasetError(f"{root} has the configurations {shown}; choose one with --data-config {names[0]}")
    return names[0]


def _described(root: Path, listing: _Listing, found: _Found, *, others: Sequence[Path] = ()) -> Shards:
    used = {path for paths in found.by_split.values() for path in paths}
    for path in sorted(used):
        check_inside(root, path)
    left = [f"the configuration {path.name}" for path in others]
    left += [f"the file {path.name}, which is no split" for path in found.files if path not in used]
    return Shards(
        files=found.files,
        by_split=found.by_split,
        not_used=(*left, *_beside(listing, {*found.files}, others)),
    )


def beside(root: Path, used: Iterable[Path]) -> tuple[str, ...]:
    """The folders of `root` without a used file in them, and how many other files are in it; what is hidden does not count."""
    return _beside(_list(root), used, ())


def _beside(listing: _Listing, used: Iterable[Path], mentioned: Sequence[Path]) -> tuple[str, ...]:
    left, parents = set(listing.files), set[Path]()
    # Millions of images have few folders.
    for path in used:
        left.discard(path)
        if path.parent not in parents:
            parents.update(path.parents)
    lines = [f"the folder {path.name}" for path in listing.folders if path not in parents and path not in mentioned]
    return (*lines, f"{len(left)} files beside the splits") if left else tuple(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Listing:
    """The files and folders in a folder that are not hidden, by name."""

    files: tuple[Path, ...]
    folders: tuple[Path, ...]

    @property
    def is_leaf(self) -> bool:
        return not self.folders

    def ending(self, suffix: str) -> list[Path]:
        return [path for path in self.files if path.suffix.lower() == suffix]


def _list(folder: Path, *, until_image: bool = False) -> _Listing:
    """With `until_image` an image ends the listing, which is empty then: of a large data set no folder of a class is listed for nothing."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if until_image and entry.name.lower().endswith(SUFFIXES):
                return _Listing(files=(), folders=())
            if entry.is_dir():
                folders.append(Path(entry.path))
            elif entry.is_file():
                files.append(Path(entry.path))
    return _Listing(files=tuple(sorted(files)), folders=tuple(sorted(folders)))
