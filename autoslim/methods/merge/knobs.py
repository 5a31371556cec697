"""The knobs of `merge`."""

from __future__ import annotations

from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.merge.counts import KEEP
from autoslim.methods.patch_slimming.pyramid import MAX_DEPTH

PLACES = ("image", "fixed")

_DEFAULT = (0.75, 0.45, 0.2, 0.1)
"""Shares that fall steeply at first, which did best straight after pruning at both 50 % and 35 % of the FLOPs (ViT on CIFAR-10)."""

RANGES: Ranges = {
    **{
        name: Knob(
            kind="float",
            help=f"share of the patches left behind quarter {quarter} of the blocks",
            default=default,
            low=0.0,
            high=1.0,
            cost_sign=1,
        )
        for quarter, (name, default) in enumerate(zip(KEEP, _DEFAULT, strict=True), 1)
    },
    "places": Knob(
        kind="choice",
        help="which patches stay: chosen in each image, or the same places in every image",
        default="image",
        choices=PLACES,
    ),
    "spare": Knob(
        kind="int",
        help="blocks that leave one patch more, as bits, block 0 lowest; the solver's",
        default=0,
        low=0,
        high=2.0**MAX_DEPTH,
        searched=False,
    ),
    "criteria": Knob(
        kind="choice",
        help="what patches join by: their likeness, or also the attention that they receive and their sizes (MCTF)",
        default="likeness",
        choices=("likeness", "several"),
    ),
    "embedding": Knob(
        kind="choice",
        help="what is compared: the patches' tokens, or an embedding that is trained for it (DTEM)",
        default="none",
        choices=("none", "learned"),
    ),
    "softness": Knob(
        kind="float",
        help="temperature of the soft merging in which embeddings are trained, in cosines",
        default=0.1,
        low=0.01,
        high=1.0,
        log=True,
    ),
    "train_share": Knob(kind="float", help="share of the epochs spent on the embeddings alone", default=0.2, low=0.02, high=0.6),
    "embedding_lr": Knob(
        kind="float", help="embeddings' learning rate over the recipe's", default=4.0, low=0.5, high=50.0, log=True
    ),
    "consistency": Knob(
        kind="float",
        help="weight of the squared difference to what the head reads where fewer patches are merged (MCTF has 3)",
        default=0.0,
        low=0.0,
        high=4.0,
    ),
}
