"""Life regression (`method`) whose patches join the most similar of those that stay when their life ends (`layers.merging`), instead of
being dropped. That is ours: another method, with a name of its own.

Merging has static counts, so that every image keeps as many patches as the schedule says.
"""

from __future__ import annotations

from typing import ClassVar

from autoslim.core.shape import ViTShape
from autoslim.methods.knob import Ranges, fixed
from autoslim.methods.layers.merging import check_pooling
from autoslim.methods.life_regression.knobs import RANGES
from autoslim.methods.life_regression.method import LifeRegression


class MergingLifeRegression(LifeRegression):
    """All else is life regression's, the defaults of its other knobs too."""

    name = "life_regression_merging"
    paper = "none: life regression whose patches merge when their life ends"
    ranges: ClassVar[Ranges] = fixed(RANGES, mode="fixed", dead="merge")

    def check(self, shape: ViTShape) -> None:
        super().check(shape)
        check_pooling(self.name, shape)
