"""SiT (`method`) with made tokens that the image's own patches seed (`seeded_slimming`). That is ours: another method, with a name of its
own.

It has SiT's recalibration and its weights. A module starts from the seeds' places, and a block's squared error is divided by the variance
of the teacher's patches there, unless `token_error` is `plain`.
"""

from __future__ import annotations

from typing import ClassVar

from autoslim.methods.knob import Ranges, fixed
from autoslim.methods.sit.knobs import RANGES
from autoslim.methods.sit.method import SiT


class SeededSiT(SiT):
    """Its modules have a start of their own."""

    name = "sit_seeded"
    paper = "none: made tokens that the image's own patches seed, in SiT"
    ranges: ClassVar[Ranges] = {
        **{name: knob for name, knob in fixed(RANGES, slots="image").items() if name != "start"},
        "token_error": RANGES["token_error"].replace(default="relative"),
    }
