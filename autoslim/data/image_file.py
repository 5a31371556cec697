"""Images that a column or a manifest names by their paths, and how a file is read: never from outside of the data set's folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Self

from autoslim.core.confine import confined
from autoslim.data.decode import MAX_BYTES
from autoslim.errors import DatasetError


def read_image_file(path: Path) -> bytes:
    return read_bounded(path, MAX_BYTES)


def read_bounded(path: Path, most: int) -> bytes:
    """Up to one byte more than `most`, by which the decoder recognizes a file that is too large; b"" for one that cannot be read."""
    try:
        # A pipe or a device with the name of an image would block, or never end.
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError:
        return b""


def exists(path: Path) -> bool:
    """False, too, for a name that no file can have, such as one that is too long."""
    try:
        return path.exists()
    except OSError:
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFinder:
    """Finds images by path: relative to `base`, the folder of the file that names them, or to the whole data set's folder `root`."""

    root: Path
    base: Path

    @classmethod
    def of(cls, root: Path, base: Path) -> Self:
        """With absolute folders without `..`, by which paths can be compared."""
        return cls(root=Path(os.path.abspath(root)), base=Path(os.path.abspath(base)))

    def path_of(self, text: str, where: str) -> Path:
        """Where the image should be, whether or not it exists. Raises DatasetError for a path out of `root`, also by links."""
        found = [confined(folder / text, self.root) for folder in dict.fromkeys((self.base, self.root))]
        inside = [path for path in found if path is not None]
        if not inside:
            raise DatasetError(
                f"{where} names the image {text[:200]!r}, which leads out of {self.root}; allowed: a path in that folder, relative to "
                f"{self.base}"
            )
        return next((path for path in inside if exists(path)), inside[0])

    def is_lexically_inside(self, text: str) -> bool:
        """A check that reads nothing: no `..` leads out, and no link is looked at."""
        if "\x00" in text:
            return False
        # Nearly all paths, of which there may be millions.
        if ".." not in text and not text.startswith("/"):
            return True
        return any(Path(os.path.normpath(folder / text)).is_relative_to(self.root) for folder in (self.base, self.root))

    def read(self, value: Any, where: str) -> tuple[bytes, str | None]:
        """The encoded image of a column's value, and its path if it has one; b"" for a missing one."""
        if isinstance(value, bytes):
            return value, None
        if isinstance(value, dict):
            path = value.get("path")
            if value.get("bytes") or path is None:
                return value.get("bytes") or b"", path
            return self.read(path, where)[0], path
        if value is None:
            return b"", None
        return read_image_file(self.path_of(value, where)), value
