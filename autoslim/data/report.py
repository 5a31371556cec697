"""What a model card states about the data: the number of images by class, and which images could not be read."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from autoslim.core.interval import widest_half
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.result import DataFacts

_ONE_POINT = 0.01
"""Of accuracy, which users compare models by."""

_SHOWN = 5
"""Classes that are named where data are described."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitReport(Record):
    """`per_class` counts the readable images of each class, and is empty without labels. `unreadable` counts those dropped, `named`
    lists the first 50. `dropped` counts copies of images that were left out on request.

    `drawn_from` names the split that the images were drawn from; None where the source has a split of its own.
    """

    images: int
    per_class: tuple[int, ...]
    unreadable: int
    named: tuple[str, ...]
    drawn_from: str | None = None
    dropped: int = dataclasses.field(default=0, metadata=OPTIONAL)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Reads the report of a cache of version 0.1, too, which had `origin` in the place of `drawn_from`."""
        if isinstance(data, dict) and "origin" in data:
            origin = data["origin"]
            data = {name: value for name, value in data.items() if name != "origin"}
            data["drawn_from"] = None if origin == "given" else "train"
        return super().from_dict(data)

    @property
    def how_obtained(self) -> str:
        """In words, for people."""
        return "given" if self.drawn_from is None else f"drawn from {self.drawn_from}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetReport(Record):
    """`digest_of_images` changes with any image byte, label, class name or split; `seed` is that of the drawn splits.

    `not_used` says what lies in the data set's folder and is left out, `chosen` what was taken where several things could have been meant,
    and `suspicious` what a user should know of the images: copies in two splits or with two labels, and classes of very different sizes.
    """

    source: str
    classes: tuple[str, ...]
    seed: int
    digest_of_images: str
    decoded_limit: int
    train: SplitReport
    validation: SplitReport
    test: SplitReport
    not_used: tuple[str, ...] = dataclasses.field(default=(), metadata=OPTIONAL)
    chosen: tuple[str, ...] = dataclasses.field(default=(), metadata=OPTIONAL)
    suspicious: tuple[str, ...] = dataclasses.field(default=(), metadata=OPTIONAL)

    @property
    def facts(self) -> DataFacts:
        """What the store keeps of it."""
        images = {"train": self.train.images, "validation": self.validation.images, "test": self.test.images}
        return DataFacts(content_digest=self.digest_of_images, images=images, classes=len(self.classes))

    def lines(self, *, precision: bool = True) -> list[str]:
        """What was found, in words: the splits, the classes, and all that `chosen`, `not_used` and `suspicious` say; with `precision` also
        how well the validation images tell models apart, where they do not tell a point."""
        unreadable = self.train.unreadable + self.validation.unreadable + self.test.unreadable
        named = ", ".join(self.classes[:_SHOWN]) + (", ..." if len(self.classes) > _SHOWN else "")
        return [
            f"{self.train.images:,} train, {self.validation.images:,} validation ({self.validation.how_obtained}), "
            f"{self.test.images:,} test ({self.test.how_obtained}); {unreadable} unreadable",
            *([f"{len(self.classes)} classes: {named}"] if self.classes else []),
            *(f"taken: {what}" for what in self.chosen),
            *(f"not used: {what}" for what in self.not_used),
            *(f"look at: {what}" for what in self.suspicious),
            *([self._precision()] if precision and self.classes and widest_half(self.validation.images) > _ONE_POINT else []),
        ]

    def _precision(self) -> str:
        half = 100 * widest_half(self.validation.images)
        more = "; a larger --validation-share tells more" if self.validation.drawn_from else ""
        return (
            f"{self.validation.images:,} validation images choose the models: an accuracy on them is known to about ±{half:.2g} points "
            f"(95 %), and models that are closer are not told apart{more}"
        )
