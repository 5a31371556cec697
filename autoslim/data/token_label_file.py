"""Reads the labels of one image's patches: scores of a few classes at every place of a map, as TokenLabeling publishes them.

A map is an array (2, K, H, W): the scores (logits) of K classes, and their numbers. It covers the whole image. Nothing that could run code
is read: a torch file may hold one tensor alone, and arrays of Python objects are refused.

K classes of a place, H and W places of a map.
"""

from __future__ import annotations

import io
import math
import zipfile
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from autoslim.errors import DatasetError, first_line

SUFFIXES = (".pt", ".npy", ".safetensors")
"""Of files with such an array, as `torch.save`, `numpy.save` and safetensors write it."""

MAX_BYTES = 2**20
"""Of one file. TokenLabeling's have 6.5 KB."""

MAX_SIDE, MAX_CLASSES = 64, 32
"""Bounds of H and W, and of K: a map is spread over all classes when a batch is made."""

_EXPECTED = (
    "expected one array (2, K, H, W) as torch.save, numpy.save or safetensors write it: the scores of K classes at each place, and the "
    "classes' numbers"
)


class TokenLabelMap(NamedTuple):
    """`scores` and the numbers of their `classes`, both (K, H, W)."""

    scores: NDArray[np.float32]
    classes: NDArray[np.int64]


def decode_token_labels(data: bytes, classes: int) -> TokenLabelMap:
    """The map of one image whose data set has so many classes. Raises DatasetError with the reason why it cannot be used."""
    if not data:
        raise DatasetError("there is none, or it cannot be read")
    if len(data) > MAX_BYTES:
        raise DatasetError(f"it is larger than {MAX_BYTES:,} bytes")
    found = _array(data)
    if found.ndim != 4 or found.shape[0] != 2 or 0 in found.shape:
        raise DatasetError(f"it is an array {tuple(found.shape)}; {_EXPECTED}")
    if found.shape[1] > MAX_CLASSES or max(found.shape[2:]) > MAX_SIDE:
        raise DatasetError(
            f"it is an array {tuple(found.shape)}; allowed: at most {MAX_CLASSES} classes at each of {MAX_SIDE}x{MAX_SIDE} places"
        )
    scores, numbers = found.double().unbind(0)
    # Prepared data have the scores in half precision.
    if not bool(scores.half().isfinite().all()) or bool((numbers != numbers.round()).any()):
        raise DatasetError(f"it has scores that half precision cannot hold, or classes that are no whole numbers; {_EXPECTED}")
    least, most = int(numbers.min()), int(numbers.max())
    if least < 0 or most >= classes:
        raise DatasetError(
            f"it has the class {least if least < 0 else most}; allowed: 0 to {classes - 1}, in the order of the data's classes"
        )
    # Half precision, in which TokenLabeling stores ImageNet's numbers, has no odd numbers above 2048.
    if most > _exact(found):
        raise DatasetError(f"it has the class {most} as {found.dtype}, which has not all whole numbers above {_exact(found):.0f}")
    return TokenLabelMap(scores.float().numpy(), numbers.long().numpy())


def _exact(array: Tensor) -> float:
    """The number up to which all whole numbers are exact."""
    return 2 / torch.finfo(array.dtype).eps if array.is_floating_point() else math.inf


def _array(data: bytes) -> Tensor:
    # What it is, its first bytes say, as of files with weights.
    if data.startswith(b"\x93NUMPY"):
        return torch.from_numpy(_numpy_array(data))
    try:
        if data[8:9] == b"{":
            content: object = safetensors.torch.load(data)
        elif data.startswith((b"PK\x03\x04", b"\x80")):
            _refuse_packed(data)
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        else:
            raise DatasetError(f"it is no array; {_EXPECTED}")
    except DatasetError:
        raise
    except SafetensorError as error:
        raise DatasetError(f"it is a safetensors file that cannot be read ({error})") from error
    # A pickle that holds more than a tensor, which was not run, and bytes that only look like one fail in whichever way they happen to.
    except Exception as error:
        raise DatasetError(f"it cannot be read without running what it holds ({first_line(error)}); {_EXPECTED}") from error
    if isinstance(content, dict) and len(content) == 1:
        (content,) = content.values()
    if not isinstance(content, Tensor) or content.layout != torch.strided or content.is_meta or content.is_complex():
        raise DatasetError(f"it holds a {type(content).__name__} that is no plain array; {_EXPECTED}")
    return content


def _numpy_array(data: bytes) -> NDArray[np.generic]:
    """What `numpy.save` wrote. The header is read first: by its word alone no memory is taken."""
    file = io.BytesIO(data)
    try:
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, fortran, kind = read[np.lib.format.read_magic(file)[0]](file)
    except (ValueError, KeyError) as error:
        raise DatasetError(f"it is a NumPy file that cannot be read ({first_line(error)})") from error
    rest = data[file.tell() :]
    if kind.kind not in "fiu" or not rest or math.prod(shape) * kind.itemsize != len(rest):
        raise DatasetError(f"it is a NumPy file of {kind} {shape} with {len(rest)} bytes; {_EXPECTED}")
    array: NDArray[np.generic] = np.frombuffer(rest, kind).reshape(shape, order="F" if fortran else "C")
    # Of unsigned numbers, long floats and another machine's order of bytes torch takes only some, or none.
    plain = kind.kind != "u" and kind.isnative and kind.itemsize <= 8
    return array.copy() if plain else array.astype(np.float64)


def _refuse_packed(data: bytes) -> None:
    """Refuses compressed archives: torch writes none, but would unpack any, to any size."""
    if not data.startswith(b"PK"):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or sum(m.file_size for m in members) > len(data):
        raise DatasetError("it is a compressed archive; allowed: as torch.save writes it")
