"""A folder of labels of patches beside a folder of images, in TokenLabeling's layout: `<class>/<image>.pt`.

An image's file has its name and place in the folder of the split, with another suffix. Links to files outside the folder are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from autoslim.data.image_file import read_bounded
from autoslim.data.links import check_inside
from autoslim.data.table import EncodedTokenLabels, Indices
from autoslim.data.token_label_file import MAX_BYTES, SUFFIXES
from autoslim.errors import DatasetError


class TokenLabelFolder:
    """The files in `folder` of `images` below `images_in`; `files` are in the order of the images, whether or not they exist."""

    def __init__(self, folder: Path, images: Sequence[Path], images_in: Path) -> None:
        """Raises DatasetError where there is none for the first image."""
        places = [image.relative_to(images_in) for image in images]
        suffix = next((suffix for suffix in SUFFIXES if (folder / places[0].with_suffix(suffix)).is_file()), None)
        if suffix is None:
            raise DatasetError(
                f"token_labels is {str(folder)!r}, which has no {places[0].with_suffix('')} with one of the suffixes "
                f"{', '.join(SUFFIXES)}; expected a file for each training image, <class>/<image>.pt"
            )
        self._folder = folder
        self.files = tuple(folder / place.with_suffix(suffix) for place in places)

    def read(self, wanted: Indices) -> Iterator[EncodedTokenLabels]:
        """Those of the images at these indices."""
        for index in wanted.tolist():
            path = self.files[index]
            check_inside(self._folder, path)
            yield read_bounded(path, MAX_BYTES), str(path)
