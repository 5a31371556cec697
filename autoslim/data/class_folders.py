"""Whether folders are classes: beside them, or in their place, lie parts of a data set, folds and leftovers of archives."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autoslim.data.image_listing import ListedImages
from autoslim.data.split_names import NAMES
from autoslim.errors import DatasetError

LEFTOVERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__")
"""Folders that archives, servers and systems leave beside data; like hidden ones they are no classes."""

_SPLITS = "|".join(name for names in NAMES.values() for name in names)
_IMAGES = "images?|imgs?|pictures?|photos?|jpe?gs?|frames?|data|set"
_BESIDE = "annotations?|labels?|masks?|segmentations?|trimaps?|bboxes|attributes|parts|metadata|docs?"
_FOLDS = "folds?|splits?|parts?|batch(?:es)?|chunks?"
_PART = re.compile(
    rf"(?:(?:{_SPLITS})[-_ .]?(?:{_IMAGES})?|{_IMAGES}|{_BESIDE}|(?:{_FOLDS})[-_ .]?\d+)[-_ .]?(?:\d{{2,4}})?", re.IGNORECASE
)
"""Names of parts of a data set: `train_images`, `val2017`, `images`, `annotations`, `fold1`."""

_SHOWN = 5


def refuse_parts(folder: Path, names: Sequence[str]) -> None:
    """Raises DatasetError where all folders of `folder` have names of parts of a data set: they are hardly its classes."""
    if not names or not all(_PART.fullmatch(name) for name in names):
        return
    raise DatasetError(
        f"{folder} has the folders {_listed(names)}, which are named like parts of a data set and not like its classes; expected "
        "<class>/*, or train/<class>/* with val/ and test/ beside it. Sort the images into such folders, or name each with its class in a "
        "manifest, a CSV with the columns path, label and perhaps split, as --data"
    )


def refuse_one(root: Path, folder: Path, images: Mapping[str, ListedImages]) -> None:
    """Raises DatasetError where only one of the folders has images, in folders of its own, which are the classes then; says how they are
    given."""
    filled = [name for name, found in images.items() if len(found)]
    if len(filled) != 1:
        return
    inner = images[filled[0]].inner
    if len(inner) < 2:
        return
    beside = sorted(set(images) - set(filled))
    empty = f"; {_listed(beside)} beside it has no images" if beside else ""
    raise DatasetError(
        f"{folder} has images in one folder only, {filled[0]}{empty}. Its folders {_listed(inner)} may be the classes: give "
        f"--data {shlex.quote(str(folder / filled[0] if folder == root else root))}"
        + ("" if folder == root else f" with these folders in {folder.name}/ itself")
    )


def joined_folders(images: Mapping[str, ListedImages]) -> tuple[str, ...]:
    """What is said of classes whose images lie in further folders."""
    nested = {name: found.inner for name, found in images.items() if len(found.inner) > 1}
    if not nested:
        return ()
    shared = set.intersection(*(set(inner) for inner in nested.values())) if len(nested) > 1 else set()
    shown = "; ".join(f"{name} from {_listed(inner)}" for name, inner in list(nested.items())[:_SHOWN])
    lines = [f"each class with the images of its folders: {shown}" + ("; ..." if len(nested) > _SHOWN else "")]
    if len(shared) > 1:
        lines.append(
            f"{_listed(sorted(shared))} are in each of {_listed(sorted(nested))}: if they are the classes, sort the images into a "
            "folder for each"
        )
    return tuple(lines)


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")
