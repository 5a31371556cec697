"""Data sets: from a source to batches.

`prepare_dataset` reads a source (`sources`: Parquet, image folders, built-in), makes splits that share no image (`splits`), decodes every
image once to find the unreadable ones (`decode`) and writes Arrow files that any process maps (`cache`). `open_dataset` opens them again,
`PreparedDataset.splits` gives the images at a model's size, decoded once (`pixel_file`) and kept for later searches (`pixel_cache`), and
`Loader` makes batches of them. `Sample` holds a few images for a picture.
"""

from autoslim.core.recipe import AUGMENTATIONS
from autoslim.data.dataset import ImageSplit, PreparedDataset, Splits, open_dataset
from autoslim.data.loader import Loader
from autoslim.data.prepare import prepare_dataset, prepare_probe
from autoslim.data.report import DatasetReport, SplitReport
from autoslim.data.sample import Sample, sample_source, sample_split
from autoslim.data.sources import BUILTIN

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
    "prepare_dataset",
    "prepare_probe",
    "sample_source",
    "sample_split",
]
