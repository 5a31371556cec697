"""A model and data that a caller has as objects, as the files that a search reads.

Files are made beside the output folder, and moved into it when the folder is known to be free. Their names have a digest of their
content: a call that is repeated with other weights or images is another request, and not a continued one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm.models
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from autoslim.core.files import move_folder
from autoslim.data.parquet import IMAGE_TYPE, class_names_metadata
from autoslim.data.split_names import NAMES, split_named
from autoslim.errors import DatasetError, RequestError

Model = str | os.PathLike[str] | nn.Module
"""A timm name, a folder in timm's hub format, or a timm model."""

Data = str | os.PathLike[str] | Dataset[Any] | Mapping[str, Dataset[Any]]
"""The name of a data set, a path, or torch's Datasets of (image, label)."""

_BATCH = 256
"""Encoded images that are in memory at once."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""What a PNG file holds without a loss."""

_FAST = 1
"""Compression of the PNG files: they are decoded once, when the data is prepared."""


class GivenInputs:
    """What was made for one call; `home` is where it is moved to, a folder that the output folder has for files of a job."""

    def __init__(self, made: Path, home: Path) -> None:
        self._made, self._home = made, home

    def model(self, model: object) -> str:
        """A name or a folder as it is, or the folder of a timm model with its weights.

        Raises:
            RequestError: for an object of another kind.
        """
        if isinstance(model, str | os.PathLike):
            return os.fspath(model)
        if not isinstance(model, nn.Module) or not isinstance(getattr(model, "pretrained_cfg", None), dict):
            raise RequestError(
                f"model is a {type(model).__name__}; allowed: a timm name, a folder in timm's hub format, or a model that "
                "timm.create_model has made"
            )
        folder = self._made / "model"
        # The name of an earlier one has its digest by now.
        timm.models.save_for_hf(model, str(folder), safe_serialization=True)
        return self._kept(folder)

    def data(self, data: object) -> str:
        """A name or a path as it is, or the folder of a torch Dataset, or of a mapping from splits to Datasets.

        Raises:
            RequestError: for an object of another kind; DatasetError for an entry that is no image with a label.
        """
        if isinstance(data, str | os.PathLike):
            return os.fspath(data)
        splits = data if isinstance(data, Mapping) else {"train": data}
        folder = self._made / "data"
        folder.mkdir()
        for name, dataset in splits.items():
            split = split_named(str(name))
            if split is None:
                allowed = ", ".join(alias for names in NAMES.values() for alias in names)
                raise RequestError(f"data has the split {name!r}; allowed: {allowed}")
            if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
                raise RequestError(
                    f"data is a {type(dataset).__name__}; allowed: a path, the name of a data set, a torch Dataset with a length of "
                    "(image, label), or a mapping from splits to Datasets"
                )
            if (folder / f"{split}.parquet").exists():
                raise RequestError(f"data has two splits for {split}, {name!r} is one of them; allowed: one")
            _write_split(dataset, folder / f"{split}.parquet")
        return self._kept(folder)

    def place(self) -> None:
        """Moves what was made to the home, except for what an earlier call has left there."""
        for folder in self._made.iterdir():
            destination = self._home / folder.name
            if not destination.exists():
                self._home.mkdir(parents=True, exist_ok=True)
                move_folder(folder, destination)

    def _kept(self, folder: Path) -> str:
        digest = hashlib.sha256()
        for path in sorted(folder.iterdir()):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        named = folder.with_name(f"{folder.name}-{digest.hexdigest()[:16]}")
        if named.exists():
            # The same model twice; that is said where the job is made.
            shutil.rmtree(folder)
        else:
            folder.rename(named)
        return str(self._home / named.name)


@contextlib.contextmanager
def given_inputs(output: Path, home: Path) -> Iterator[GivenInputs]:
    """Inputs of a call that writes in `output`; what is not placed in the end is deleted."""
    # On the same file system, so that large files are moved by their names alone.
    output.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield GivenInputs(made, home)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_split(dataset: Any, path: Path) -> None:
    names = _classes(dataset)
    schema = pa.schema({"image": IMAGE_TYPE, "label": pa.int64()}, metadata=class_names_metadata(names) if names else None)
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        for start in range(0, len(dataset), _BATCH):
            pairs = [_pair(dataset, index, names) for index in range(start, min(start + _BATCH, len(dataset)))]
            images = [{"bytes": encoded, "path": None} for encoded, _ in pairs]
            writer.write_table(pa.table({"image": images, "label": [label for _, label in pairs]}, schema=schema))


def _classes(dataset: Any) -> Sequence[str]:
    """torchvision's attribute, also of the data set that a `Subset` is one of; empty where there is none."""
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return [str(name) for name in getattr(dataset, "classes", ())]


def _pair(dataset: Any, index: int, names: Sequence[str]) -> tuple[bytes, int]:
    entry = dataset[index]
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        raise DatasetError(f"data[{index}] is a {type(entry).__name__}; expected a pair of an image and a label")
    image, label = entry
    if isinstance(label, str) and label in names:
        label = names.index(label)
    try:
        number = int(label)
        whole = number == label
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise DatasetError(
            f"data[{index}]: the label is {label!r:.100}; expected a whole number from 0, or one of the Dataset's `classes`"
        )
    return _encoded(image, index), number


def _encoded(image: Any, index: int) -> bytes:
    """As PNG, which loses nothing of eight bits a channel."""
    if isinstance(image, torch.Tensor | np.ndarray):
        image = _from_array(image, index)
    if not isinstance(image, Image.Image):
        raise DatasetError(
            f"data[{index}]: the image is a {type(image).__name__}; expected a PIL image, a tensor (channels, height, width), or an "
            "array (height, width, channels)"
        )
    if image.mode == "I" and np.all(np.asarray(image) == np.asarray(image).astype(np.uint16)):
        image = image.convert("I;16")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    if image.mode not in _PNG_MODES:
        raise DatasetError(f"data[{index}]: the image has Pillow's mode {image.mode}; expected one of {', '.join(_PNG_MODES)}")
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=_FAST)
    return file.getvalue()


def _from_array(image: torch.Tensor | np.ndarray[Any, Any], index: int) -> Image.Image:
    if isinstance(image, torch.Tensor):
        # torch has the channels first.
        image = image.permute(1, 2, 0) if image.ndim == 3 else image
    array: np.ndarray[Any, Any] = np.asarray(image.cpu() if isinstance(image, torch.Tensor) else image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise DatasetError(f"data[{index}]: the image has the shape {array.shape}; expected one, three or four channels")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= 0 and array.max() <= 1):
            raise DatasetError(
                f"data[{index}]: the image has values from {array.min():.4g} to {array.max():.4g} ({array.dtype}); expected uint8, or "
                "0 to 1. Give the Dataset without its normalization and augmentation: the search has its own"
            )
        array = np.rint(array * 255).astype(np.uint8)
    return Image.fromarray(array)
