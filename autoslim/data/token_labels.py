"""`TokenLabels`: the labels of the patches of a prepared split, mapped from files that `write_token_labels` wrote.

N images, K classes at each of H x W places of a map, which covers the whole image.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from autoslim.data.cache import EncodedFile
from autoslim.data.decode import shown_size
from autoslim.data.table import EncodedTokenLabels, Indices
from autoslim.errors import DatasetError

if TYPE_CHECKING:
    from autoslim.data.token_label_file import TokenLabelMap

_PARTS = ("scores", "classes", "sizes")


class TokenMaps(NamedTuple):
    """`scores` (N, K, H, W) of the `classes` with these numbers, and the `sizes` (N, 2) of the images: height and width in pixels."""

    scores: NDArray[np.floating[Any]]
    classes: NDArray[np.integer[Any]]
    sizes: NDArray[np.integer[Any]]


class TokenLabels:
    """`class_count` is the number of the data set's classes."""

    def __init__(self, maps: TokenMaps, class_count: int) -> None:
        self._maps, self.class_count = maps, class_count

    @classmethod
    def find(cls, folder: Path, split: str, class_count: int) -> Self | None:
        """Those of a split of a prepared data set; None where it has none."""
        files = [_file(folder, split, part) for part in _PARTS]
        if not files[0].is_file():
            return None
        scores, classes, sizes = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
        return cls(TokenMaps(scores, classes, sizes), class_count)

    def maps(self, indices: Indices) -> TokenMaps:
        scores, classes, sizes = self._maps
        return TokenMaps(scores[indices], classes[indices], sizes[indices])


def write_token_labels(
    folder: Path,
    split: str,
    encoded: Iterable[EncodedTokenLabels],
    images: EncodedFile,
    *,
    class_count: int,
    digest: hashlib._Hash,
) -> str:
    """Writes the labels of a split's `images`, in their order, and adds them to the data set's `digest`. Returns what they are, in words.

    Raises:
        DatasetError: naming labels that are missing, damaged, or of other sizes than those before.
    """
    # Half precision, as they are published: scores choose a soft label.
    kinds: tuple[np.dtype[Any], ...] = (np.dtype(np.float16), np.min_scalar_type(class_count - 1), np.dtype(np.int32))
    shape: tuple[int, ...] = ()
    with contextlib.ExitStack() as stack:
        # Not mapped: a disk that is full raises an error, and does not end the process.
        files = [stack.enter_context(_file(folder, split, part).open("wb")) for part in _PARTS]
        for index, (data, name) in enumerate(encoded):
            found = _decoded(data, name, class_count)
            if not shape:
                shape = found.scores.shape
                for file, kind, own in zip(files, kinds, (shape, shape, (2,)), strict=True):
                    np.lib.format.write_array_header_1_0(file, _header(kind, (len(images), *own)))
            if found.scores.shape != shape:
                raise DatasetError(
                    f"the token labels {name} have the shape {found.scores.shape}, and others {shape}; allowed: the same for all"
                )
            values = [
                np.asarray(value, kind).tobytes()
                for value, kind in zip((*found, shown_size(images.bytes_of(index))), kinds, strict=True)
            ]
            for file, value in zip(files, values, strict=True):
                file.write(value)
            digest.update(f" token labels {shape} ".encode() + b"".join(values[:2]))
    classes, height, width = shape
    return f"labels of patches for {len(images):,} training images: {classes} classes at each of {height}x{width} places"


def _header(kind: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, Any]:
    return {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}


def _decoded(data: bytes, name: str, class_count: int) -> TokenLabelMap:
    # Here, because it imports PyTorch, and the processes that decode images do without.
    from autoslim.data.token_label_file import decode_token_labels

    try:
        return decode_token_labels(data, class_count)
    except DatasetError as error:
        raise DatasetError(f"the token labels {name} cannot be used: {error}") from error


def _file(folder: Path, split: str, part: str) -> Path:
    return folder / f"{split}.token_{part}.npy"
