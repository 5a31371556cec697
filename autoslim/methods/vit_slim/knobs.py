"""The knobs of ViT-Slim."""

from __future__ import annotations

from autoslim.core.recipe import Knobs
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.unit_removal.kept_share import NARROWEST
from autoslim.methods.unit_removal.ranking import NESTINGS, WHOLES
from autoslim.methods.vit_slim.mask_ranking import RULES

L1_WEIGHTS = {"even": (2e-4, 2e-4, 3e-3), "light": (5e-5, 5e-5, 1e-3), "paper": (2e-4, 5e-5, 1e-4)}
"""w1 (attention), w2 (MLP) and w3 (patches). `paper` is the paper's optimum for DeiT-S over 50 epochs (its Tables 3 and 5). The others are
ours, for short searches and a ranking across the parts."""

SEARCH_SHARE = 0.143
"""Share of a trial's epochs that the mask search takes, as in the paper: it searches for 50 epochs and retrains for 300."""

EARLIER: Knobs = {"search_share": 0.1, "mask_lr": 100.0, "loss": "recipe", "tune_loss": "recipe"}
"""What recipes do that are older than these knobs."""

STARTS = ("folded", "searched", "dense")

RANGES: Ranges = {
    "keep": Knob(kind="float", help="share of all parts kept", default=0.7, low=NARROWEST, high=1.0, cost_sign=1),
    "l1": Knob(kind="choice", help="l1 weights of the masks: one search each", default="paper", choices=tuple(L1_WEIGHTS)),
    "search_share": Knob(
        kind="float", help="share of the epochs that the mask search takes", default=SEARCH_SHARE, low=0.02, high=0.5
    ),
    "mask_lr": Knob(
        kind="float", help="learning rate of the masks over the recipe's", default=1.0, low=1.0, high=200.0, log=True
    ),
    "loss": Knob(
        kind="choice",
        help="what the mask search minimises beside l1: the labels' loss (paper), or the recipe's with the teacher's soft labels",
        default="labels",
        choices=("labels", "recipe"),
    ),
    "tune_loss": Knob(
        kind="choice",
        help="what the fine-tuning minimises: the labels' loss (paper), or the recipe's with the teacher's soft labels",
        default="labels",
        choices=("labels", "recipe"),
    ),
    "start": Knob(
        kind="choice",
        help="searched weights with the masks folded in, without them (the paper), or the dense weights",
        default="searched",
        choices=STARTS,
    ),
    "refit": Knob(
        kind="choice", help="refit what reads the units that are left, by least squares", default=False, choices=(False, True)
    ),
    "rule": Knob(
        kind="choice", help="one ranking by the masks' falls, or the paper's three by value", default="value", choices=RULES
    ),
    "cost_power": Knob(kind="float", help="worth is compared over cost to this power", default=0.5, low=0.0, high=1.0),
    "width_multiple": Knob(kind="choice", help="widths are multiples of this", default=1, choices=(1, 8, 16)),
    "whole": Knob(kind="choice", help="what may go whole", default="none", choices=WHOLES),
    "patches": Knob(
        kind="choice",
        help="patches stay, or go: from a layer down (the paper), or where no deeper layer needs them (its code)",
        default="stay",
        choices=("stay", *NESTINGS),
    ),
    # The paper prunes attention or MLPs alone, too: then the other part gives nothing.
    "attention_give": Knob(
        kind="float", help="share of attention that may go", default=1.0, low=0.5, high=1.0, allowed=(0.0, 1.0)
    ),
    "mlp_give": Knob(kind="float", help="share of the MLPs that may go", default=1.0, low=0.5, high=1.0, allowed=(0.0, 1.0)),
    "patch_share": Knob(
        kind="float",
        help="share of the reduction that patches bear at least; under the rule `value` what they give beside the others",
        default=0.2,
        low=0.0,
        high=0.6,
    ),
}
