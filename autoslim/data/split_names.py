"""Which split a folder or a file is, by the names that people give them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from autoslim.errors import DatasetError

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test", "testing"),
}
"""In any case; of a split only one may be there."""

_SPLITS = {name: split for split, names in NAMES.items() for name in names}

# A shard's number, as the hub writes it (-00000-of-00002) or shorter.
_SHARD = re.compile(r"([a-z]+?)[-_.]?\d+(?:[-_]?of[-_]?\d+)?", re.IGNORECASE)


def split_named(name: str) -> str | None:
    """`train`, `validation` or `test`; None for a name of something else."""
    return _SPLITS.get(name.lower())


def split_of_file(path: Path) -> str | None:
    """The split of a file, whose name may be a split's, or one with a shard's number."""
    shard = _SHARD.fullmatch(path.stem)
    return split_named(path.stem) or (split_named(shard[1]) if shard else None)


def folders_by_split(root: Path, folders: Iterable[Path]) -> dict[str, Path]:
    """Folders of `root` that are splits. Raises DatasetError for two of one split, and for splits without one to train on."""
    found: dict[str, Path] = {}
    for folder in sorted(folders, reverse=True):
        split = split_named(folder.name)
        if split is None:
            continue
        if split in found:
            raise DatasetError(
                f"{root} has both {found[split].name} and {folder.name}; allowed: one folder for the {split} split"
            )
        found[split] = folder
    if found and "train" not in found:
        names = ", ".join(folder.name for folder in found.values())
        raise DatasetError(
            f"{root} has the folder {names} but no train; a folder of that name is taken as a split, never as a class"
        )
    return found
