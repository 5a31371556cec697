"""The knobs of life regression, and how those of its drops are put in order."""

from __future__ import annotations

from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.layers.gradual import GRADUAL
from autoslim.methods.layers.merging import DEAD
from autoslim.methods.life_regression.schedule import EVERY, dropping_blocks, patches_above

MAX_DROPS = 4
"""Drops with knobs of their own, which a search has to explore; the code has three. `drops` `every` has no limit."""

_LAYERS = (4, 7, 10, 11)
"""The code's three drop layers in a model of 12 blocks, and one more; in other models at the same shares of the depth."""

EARLIER: Knobs = {"start": "attention", "loss": "recipe", "lr_decay": "cosine", "tune_pruned": False}
"""What recipes do that are older than these knobs."""

LONGEST = 0.98
"""The largest threshold: at least a fiftieth of the patches outlives every drop."""

RANGES: Ranges = {
    "mode": Knob(
        kind="choice",
        help="every image keeps as many patches (paper), or those whose life is longer, up to as many",
        default="fixed",
        choices=("fixed", "threshold"),
    ),
    "drops": Knob(
        kind="choice",
        help="how often tokens are dropped, or in front of every block from the first drop on",
        default=3,
        choices=(*range(1, MAX_DROPS + 1), EVERY),
    ),
    **{
        f"drop_layer_{k}": Knob(
            kind="layer", help=f"block in front of which drop {k} happens", default=layer / 12, low=0.0, high=1.0
        )
        for k, layer in enumerate(_LAYERS, 1)
    },
    **{
        f"life_threshold_{k}": Knob(
            kind="float",
            help=f"share of the patches whose life has ended by drop {k}{every}",
            default=round(1 - 0.7**k, 3),
            low=0.0,
            high=LONGEST,
            cost_sign=-1,
        )
        for k, every in enumerate(("", ", or by the last block", "", ""), 1)
    },
    "spare_until": Knob(
        kind="int",
        help="block up to which the last drop, or every drop, keeps one patch more (0: none); the solver's",
        default=0,
        low=0,
        high=1000,
        searched=False,
    ),
    "dead": DEAD,
    "last_reading": Knob(
        kind="choice",
        help="patches that a drop removes are dropped in front of its block (paper's code), or still read as keys by it",
        default=False,
        choices=(False, True),
    ),
    "diversity": Knob(
        kind="float",
        help="how much a patch's life loses, in deviations of lives, for its likeness to a longer-lived patch; 0 in the paper",
        default=0.0,
        low=0.0,
        high=2.0,
    ),
    "start": Knob(
        kind="choice",
        help="what W starts from: uniform noise (paper), the class token's attention, or a regression on impact scores",
        default="uniform",
        choices=("uniform", "attention", "impact"),
    ),
    "ends": Knob(
        kind="choice",
        help="where lives end softly: at every block (paper) or where the pruned form's do, at the drops",
        default="blocks",
        choices=("blocks", "drops"),
    ),
    "temperature": Knob(
        kind="float", help="steepness T of the soft end of a life, per block", default=1.0, low=0.5, high=16.0, log=True
    ),
    "anneal": Knob(
        kind="float",
        help="factor by which T grows over the regressor's training; 1 in the paper's code",
        default=1.0,
        low=1.0,
        high=32.0,
        log=True,
    ),
    "noise": Knob(
        kind="float",
        help="Gumbel noise on the lives while the regressor is trained, in deviations of lives; 0 in the paper",
        default=0.0,
        low=0.0,
        high=2.0,
    ),
    "gradual": GRADUAL,
    "loss": Knob(
        kind="choice",
        help="what both phases minimise: the labels' loss (paper), or the recipe's with the teacher's soft labels",
        default="labels",
        choices=("labels", "recipe"),
    ),
    "lr_decay": Knob(
        kind="choice",
        help="how the learning rate falls in both phases: in a line (paper's code), or along half a cosine as in other methods",
        default="linear",
        choices=("linear", "cosine"),
    ),
    "train_share": Knob(kind="float", help="share of the epochs spent on the regressor alone", default=0.5, low=0.02, high=0.6),
    "regressor_lr": Knob(
        kind="float", help="regressor's learning rate over the recipe's", default=100.0, low=1.0, high=100.0, log=True
    ),
    "tune": Knob(
        kind="choice",
        help="what is tuned: blocks from the first drop on (paper) or all",
        default="blocks",
        choices=("blocks", "all"),
    ),
    "tune_pruned": Knob(
        kind="choice",
        help="in a chain the blocks that an earlier step has pruned are tuned, too; false in recipes of earlier versions",
        default=True,
        choices=(True, False),
        searched=False,
    ),
}


def real_drops(shape: ViTShape, knobs: Knobs) -> Knobs:
    """Layers and thresholds in rising order, without drops that remove nothing."""
    drops = range(1, knobs["drops"] + 1)
    layers = sorted(min(knobs[f"drop_layer_{k}"], dropping_blocks(shape, knobs) - 1) for k in drops)
    thresholds = sorted(knobs[f"life_threshold_{k}"] for k in drops)
    merged = dict(zip(layers, thresholds, strict=True))
    kept = {layer: patches_above(threshold, shape) for layer, threshold in merged.items()}
    # The first drop stays even if it removes nothing, because it is where the regressor runs.
    real = [layer for before, layer in zip([None, *kept], kept, strict=False) if before is None or kept[layer] < kept[before]]
    repaired: Knobs = {"drops": len(real)}
    for k, layer in enumerate(real, 1):
        repaired[f"drop_layer_{k}"] = layer
        repaired[f"life_threshold_{k}"] = threshold_of(kept[layer], shape)
    return repaired


def one_line(shape: ViTShape, knobs: Knobs) -> Knobs:
    """Both thresholds in rising order; where only one block may drop, they are equal."""
    ends = sorted(knobs[f"life_threshold_{end}"] for end in (1, 2))
    first = min(knobs["drop_layer_1"], dropping_blocks(shape, knobs) - 1)
    if first == dropping_blocks(shape, knobs) - 1:
        ends = [ends[0]] * 2
    thresholds = {f"life_threshold_{end}": threshold_of(patches_above(value, shape), shape) for end, value in enumerate(ends, 1)}
    return {"drop_layer_1": first, **thresholds}


def threshold_of(patches: int, shape: ViTShape) -> float:
    """The threshold that corresponds exactly to a count, so that equal counts are equal recipes."""
    return min(1 - patches / shape.patches, LONGEST)
