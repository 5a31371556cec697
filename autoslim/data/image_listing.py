"""`list_images`: the image files in a folder and below it, without an object for each."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoslim.data.decode import HEIF_SUFFIXES, SUFFIXES
from autoslim.data.links import check_inside
from autoslim.data.path_list import path_array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedImages:
    """Images of one folder: their paths relative to the data set's folder, sorted (`path_array`), and the names of the folders directly in
    it in which some of them are."""

    places: Any
    inner: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)


def list_images(root: Path, folder: Path, note: Callable[[str], None]) -> ListedImages:
    """The images in `folder`, at any depth, of a data set in `root`; `note` is told the kind of each other file.

    Raises:
        DatasetError: for a link that leads out of `root`.
    """
    check_inside(root, folder)
    places: list[str] = []
    inner: set[str] = set()
    pending = [folder]
    while pending:
        parent = pending.pop()
        head = "".join(f"{part}/" for part in parent.relative_to(root).parts)
        try:
            entries = os.scandir(parent)
        except OSError:
            note("folders that cannot be read")
            continue
        before = len(places)
        with entries:
            for entry in entries:
                # Thumbnails and checkpoints of notebooks are no images of the user's.
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    if entry.is_symlink():
                        note("links to folders, which are not followed")
                    else:
                        pending.append(parent / entry.name)
                elif is_image(entry.name):
                    # A file that is no link lies where its folder does, which takes no look at the disk.
                    if entry.is_symlink():
                        check_inside(root, parent / entry.name)
                    places.append(head + entry.name)
                else:
                    note(kind_of(entry.name))
        if len(places) > before:
            inner.update(parent.relative_to(folder).parts[:1])
    # By the parts of the paths, as paths compare: `a/1.png` comes before `a-b/1.png`. Within one folder that is the order of the names.
    if inner:
        places.sort(key=lambda place: place.split("/"))
    else:
        places.sort()
    return ListedImages(places=path_array(places), inner=tuple(sorted(inner)))


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def kind_of(name: str) -> str:
    """What a file is called that is no image."""
    suffix = Path(name).suffix.lower()
    hint = " (read where the package pillow-heif is installed)" if suffix in HEIF_SUFFIXES else ""
    return f"files ending in {suffix}{hint}" if suffix else "files without a suffix"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # Links in a circle.
        return False
