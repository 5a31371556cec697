"""Data sets: from a source to batches.

`prepare_dataset` reads a source (`sources`: Parquet, image folders, built-in), makes splits that share no image (`splits`), decodes every
image once to find the unreadable ones (`decode`) and writes Arrow files that any process reads (`cache`). `open_dataset` opens them again,
`open_reference` also on another node, where the source is in an object store (`remote`),
`PreparedDataset.splits` gives the images at a model's size, decoded once (`pixel_file`) and kept for later searches (`pixel_cache`), and
`Loader` makes batches of them: read, or decoded by processes (`decoders`), and augmented on the device (`augment`). `Sample` holds a few
images for a picture.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autoslim.core.recipe import AUGMENTATIONS
from autoslim.data.dataset import ImageSplit, PreparedDataset, Splits, open_dataset
from autoslim.data.prepare import open_reference, prepare_dataset, prepare_probe
from autoslim.data.report import DatasetReport, SplitReport
from autoslim.data.sources import BUILTIN

if TYPE_CHECKING:
    from autoslim.data.loader import Loader
    from autoslim.data.sample import Sample, sample_source, sample_split

__all__ = [
    "AUGMENTATIONS",
    "BUILTIN",
    "DatasetReport",
    "ImageSplit",
    "Loader",
    "PreparedDataset",
    "Sample",
    "SplitReport",
    "Splits",
    "open_dataset",
    "open_reference",
    "prepare_dataset",
    "prepare_probe",
    "sample_source",
    "sample_split",
]

_HOMES = {
    "Loader": "autoslim.data.loader",
    "Sample": "autoslim.data.sample",
    "sample_source": "autoslim.data.sample",
    "sample_split": "autoslim.data.sample",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that a process that decodes images does not wait for torch, nor hold it.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'autoslim.data' has no attribute {name!r}")
