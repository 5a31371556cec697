"""`Score`: what trials are compared by, and its words in tables, messages and metrics."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from autoslim.core.interval import wilson

Objective = Literal["labels", "features"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
"""What a slimmed model is trained for: the labels of images, or the features that the dense model has of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A number from 0 to 1 that a search makes as large as it can. Fields of stored records call it `accuracy`, whichever it is.

    `name` is its word in messages and in names of metrics, `title` the head of a column, `axis` the title of a chart's axis, `meaning` half
    a sentence that explains it; `superlative` is what the model with the highest one is, `inferior` what one with a lower one is. One with
    a `unit` of 0.01 is shown in percent.
    """

    name: str
    title: str
    axis: str
    meaning: str
    superlative: str
    inferior: str
    unit: float

    def text(self, value: float, digits: int = 1) -> str:
        """`91.2%`, or `0.912` where it is no share; with `digits` behind the point of a percentage."""
        return f"{value:.{digits}%}" if self.unit < 1 else f"{value:.{digits + 2}f}"

    def spaced(self, value: float, images: int | None = None) -> str:
        """As reports show it: `91.20 %`, `0.9120`; of a share of so many `images` `91.20 (90.6-91.7) %`."""
        return f"{self.with_interval(value, images)} %" if self.is_share else self.text(value, 2)

    def with_interval(self, value: float | None, images: int | None) -> str:
        """`71.10 (70.2-72.0)` in percent, of a share of `images`, as in a column with `interval_unit`; a mean cosine has no interval that
        is known. Empty without a value."""
        if value is None:
            return ""
        if not self.is_share:
            return self.text(value, 2)
        return wilson(value, images).percent() if images else f"{100 * value:.2f}"

    def spoken(self, value: float, images: int | None) -> str:
        """In a sentence: `71.10% (70.2% to 72.0%)` of a share of so many `images`; without an interval where none is known."""
        text = self.text(value, 2)
        if not self.is_share or not images:
            return text
        interval = wilson(value, images)
        return f"{text} ({interval.low:.1%} to {interval.high:.1%})"

    def interval_unit(self, images: int | None) -> str:
        """What belongs behind the name of a column of `with_interval`."""
        return "" if not self.is_share else ", % (95 %)" if images else ", %"

    @property
    def is_share(self) -> bool:
        """Whether it is the share of images that are right, of which an interval is known."""
        return self.unit < 1

    def drop(self, points: float) -> str:
        """`2 points`, or of a cosine `0.02`: a distance of so many hundredths."""
        return f"{points:g} point{'' if points == 1 else 's'}" if self.unit < 1 else f"{points / 100:g}"

    def difference(self, value: float) -> str:
        """`1.20 points of validation accuracy`, `0.0120 of validation agreement`."""
        amount = f"{100 * value:.2f} points" if self.unit < 1 else f"{value:.4f}"
        return f"{amount} of validation {self.name}"


ACCURACY = Score(
    name="accuracy",
    title="top-1",
    axis="Top-1 accuracy (%)",
    meaning="accuracy is top-1",
    superlative="most accurate",
    inferior="less accurate",
    unit=0.01,
)
AGREEMENT = Score(
    name="agreement",
    title="agreement",
    axis="Agreement with the dense model's features",
    meaning="agreement is the mean cosine to the dense model's features (pooled, and patches at their places)",
    superlative="closest to the dense model",
    inferior="less close",
    unit=1.0,
)

SCORES = {score.name: score for score in (ACCURACY, AGREEMENT)}
"""By the names that results are stored with."""

DENSE_AGREEMENT = 1.0
"""The dense model agrees with itself."""


def score_of(*, labelled: bool) -> Score:
    """Of models that are trained and judged by labels, or else by the dense model's features."""
    return ACCURACY if labelled else AGREEMENT
