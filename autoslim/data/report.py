"""What a model card states about the data: the number of images by class, and which images could not be read."""

from __future__ import annotations

import dataclasses

from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitReport(Record):
    """`per_class` counts the readable images of each class; `unreadable` counts those dropped, `named` lists the first 50.

    `origin` is `given` where the source brings the split and `cut from train` where it does not.
    """

    images: int
    per_class: tuple[int, ...]
    unreadable: int
    named: tuple[str, ...]
    origin: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetReport(Record):
    """`digest_of_images` changes with any image byte, label, class name or cut; `seed` is that of the cuts."""

    source: str
    classes: tuple[str, ...]
    seed: int
    digest_of_images: str
    decoded_limit: int
    train: SplitReport
    validation: SplitReport
    test: SplitReport
