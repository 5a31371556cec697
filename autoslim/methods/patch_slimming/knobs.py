"""The knobs of Patch Slimming."""

from __future__ import annotations

from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.layers.gradual import GRADUAL
from autoslim.methods.layers.merging import DEAD
from autoslim.methods.patch_slimming.pyramid import LEAST_KEEP, MAX_DEPTH, TAPER

RANGES: Ranges = {
    "keep": Knob(
        kind="float", help="mean share of patches kept over the blocks", default=0.6, low=LEAST_KEEP, high=1.0, cost_sign=1
    ),
    "counts": Knob(
        kind="choice",
        help="what decides the patches per block: Algorithm 1 (paper), a line of two knobs, or scores",
        default="epsilon",
        choices=("epsilon", "pyramid", "score"),
    ),
    "taper": Knob(
        kind="float",
        help="with pyramid, the fall of that share over the blocks: 0 none, 1 the steepest",
        default=TAPER,
        low=0.0,
        high=1.0,
    ),
    "paths": Knob(
        kind="choice",
        help="paths of the score: the paper's, or with residuals",
        default="paper",
        choices=("paper", "residual"),
    ),
    "places": Knob(
        kind="choice",
        help="which patches stay: the best by score (paper), or those that cover best what matters",
        default="score",
        choices=("score", "cover"),
    ),
    "search_share": Knob(
        kind="choice", help="share of the epochs for Algorithm 1, once for all trials", default=0.2, choices=(0.1, 0.2, 0.4)
    ),
    "class_query": Knob(
        kind="choice",
        help="the last block computes the class token alone (paper), where nothing else is read",
        default=True,
        choices=(True, False),
    ),
    "dead": DEAD,
    "gradual": GRADUAL,
    "spare": Knob(
        kind="int",
        help="blocks that keep one patch more, as bits, block 0 lowest; the solver's",
        default=0,
        low=0,
        high=2.0**MAX_DEPTH,
        searched=False,
    ),
}
