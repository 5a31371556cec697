"""`AccuracyGoal`: the accuracy that a search holds on to while it makes a model cheaper, as the user writes it.

Beside FLOPs budgets a search has one goal at most. What it comes to is known once the dense model is evaluated: a `Floor`.
"""

from __future__ import annotations

import dataclasses
import re

from autoslim.core.record import Record
from autoslim.core.score import ACCURACY, Score
from autoslim.errors import RequestError

_ROUNDING = 1e-9
"""0.8 - 0.5 is above 0.3 in binary; no set of images is so large that a billionth of it is an image."""
_SHARE = re.compile(r"(\d{1,3}(?:\.\d*)?|\.\d+)\s*(%?)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Floor(Record):
    """The lowest score on the validation images that a model may have; `label` names the model, as a budget's does."""

    label: str
    least: float

    def keeps(self, accuracy: float | None) -> bool:
        return accuracy is not None and accuracy >= self.least - _ROUNDING


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccuracyGoal(Record):
    """Exactly one is set: `max_drop` is in points below the dense model's accuracy (hundredths of a score that is no share of images),
    `least` a share from 0 to 1.

    Raises:
        RequestError: for both, for none, and outside of the range; the message begins with the flag.
    """

    max_drop: float | None = None
    least: float | None = None

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.least is None):
            raise RequestError("one of --max-drop and --min-accuracy is needed, and not both")
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise RequestError(f"--max-drop is {self.max_drop:g}; allowed: 0 to 100 points of accuracy")
        if self.least is not None and not 0 < self.least <= 1:
            raise RequestError(f"--min-accuracy is {self.least:g}; allowed: above 0% and at most 100%")

    @property
    def label(self) -> str:
        """The name of the model's folder."""
        return f"drop-{self.max_drop:g}" if self.least is None else f"at-least-{percent_text(self.least)}"

    @property
    def flag(self) -> str:
        return f"--max-drop {self.max_drop:g}" if self.least is None else f"--min-accuracy {percent_text(self.least)}"

    def floor(self, dense_accuracy: float) -> Floor:
        """`dense_accuracy` is the dense model's on the same images, a share."""
        return Floor(label=self.label, least=dense_accuracy - (self.max_drop or 0.0) / 100 if self.least is None else self.least)

    def drop_from(self, dense_accuracy: float | None) -> float | None:
        """The share that a model may lose; None where that depends on a dense model that is not evaluated yet."""
        if self.max_drop is not None:
            return self.max_drop / 100
        return None if dense_accuracy is None else max(0.0, dense_accuracy - (self.least or 0.0))

    def words(self, score: Score = ACCURACY) -> str:
        """`at most 1 point below the dense model`, `at least 80%`."""
        if self.max_drop is not None:
            return f"at most {score.drop(self.max_drop)} below the dense model"
        return f"at least {percent_text(self.least or 0.0) if score.unit < 1 else f'{self.least:g}'}"


def parse_least(text: str) -> float:
    """A share of `80%`, or of `0.8`.

    Raises:
        ValueError: for anything else, and outside of 0 to 1; the message follows the name of the setting.
    """
    found = _SHARE.fullmatch(text.strip())
    # `80` may mean 80 % or a mistake; it is asked for again.
    share = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 < share <= 1:
        raise ValueError(f"is {text[:40]!r}; allowed: a share of the images such as 80% or 0.8")
    return share


def percent_text(share: float) -> str:
    """As `parse_least` reads it."""
    return f"{100 * share:.10g}%"
