"""Patch Slimming (`method`) in which the patches that a block removes join the most similar of those that stay (`layers.merging`),
instead of being dropped. That is ours: another method, with a name of its own.
"""

from __future__ import annotations

from typing import ClassVar

from autoslim.core.shape import ViTShape
from autoslim.methods.knob import Ranges, fixed
from autoslim.methods.layers.merging import check_pooling
from autoslim.methods.patch_slimming.knobs import RANGES
from autoslim.methods.patch_slimming.method import PatchSlimming


class MergingPatchSlimming(PatchSlimming):
    """All else is Patch Slimming's, the defaults of its other knobs too."""

    name = "patch_slimming_merging"
    paper = "none: Patch Slimming whose removed patches merge"
    ranges: ClassVar[Ranges] = fixed(RANGES, dead="merge")

    def check(self, shape: ViTShape) -> None:
        super().check(shape)
        check_pooling(self.name, shape)
