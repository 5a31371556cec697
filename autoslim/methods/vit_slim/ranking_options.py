"""From a recipe's knobs to the options of the ranking."""

from __future__ import annotations

from autoslim.core.recipe import Knobs
from autoslim.methods.vit_slim.mask_ranking import RankingOptions

L1_WEIGHTS = {"even": (2e-4, 2e-4, 3e-3), "light": (5e-5, 5e-5, 1e-3), "paper": (2e-4, 5e-5, 1e-4)}
"""w1 (attention), w2 (MLP) and w3 (patches). `paper` is the paper's optimum for DeiT-S over 50 epochs (its Tables 3 and 5). The others are
ours, for short searches and a ranking across the parts."""


def ranking_options(knobs: Knobs) -> RankingOptions:
    patch_share = knobs.get("patch_share", 0.0)
    # Under `fall` all patches may go, and `patch_share` is their least part of the savings; under `value` it is what they give
    # in proportion to the other parts.
    patch_give = 0.0 if knobs["patches"] == "stay" else 1.0 if knobs["rule"] == "fall" else patch_share
    return RankingOptions(
        rule=knobs["rule"],
        l1=L1_WEIGHTS[knobs["l1"]],
        cost_power=knobs.get("cost_power", 0.0),
        width_multiple=knobs["width_multiple"],
        whole=knobs["whole"],
        nesting=knobs["patches"],
        removable=(knobs["attention_give"], knobs["mlp_give"], patch_give),
        patch_share=patch_share if knobs["rule"] == "fall" else 0.0,
    )
