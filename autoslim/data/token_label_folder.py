"""A folder of labels of patches beside a folder of images, in TokenLabeling's layout: `<class>/<image>.pt`.

An image's file has its name and place in the folder of the split, with another suffix. Links to files outside the folder are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from autoslim.data.image_file import read_bounded
from autoslim.data.links import check_inside
from autoslim.data.path_list import PathList, path_array
from autoslim.data.table import EncodedTokenLabels, Indices
from autoslim.data.token_label_file import MAX_BYTES, SUFFIXES
from autoslim.errors import DatasetError


class TokenLabelFolder:
    """The files in `folder` of `images` below `images_in`; `files` are in the order of the images, whether or not they exist."""

    def __init__(self, folder: Path, images: PathList, images_in: Path) -> None:
        """Raises DatasetError where there is none for the first image."""
        first = images.path(0).relative_to(images_in)
        suffix = next((suffix for suffix in SUFFIXES if (folder / first.with_suffix(suffix)).is_file()), None)
        if suffix is None:
            raise DatasetError(
                f"token_labels is {str(folder)!r}, which has no {first.with_suffix('')} with one of the suffixes "
                f"{', '.join(SUFFIXES)}; expected a file for each training image, <class>/<image>.pt"
            )
        self._folder = folder
        head = len(str(images.path(0))) - len(str(first))
        self.files = PathList(folder, [path_array(f"{os.path.splitext(image[head:])[0]}{suffix}" for image in images)])

    def read(self, wanted: Indices) -> Iterator[EncodedTokenLabels]:
        """Those of the images at these indices."""
        for index in map(int, wanted):
            path = self.files.path(index)
            check_inside(self._folder, path)
            yield read_bounded(path, MAX_BYTES), str(path)
