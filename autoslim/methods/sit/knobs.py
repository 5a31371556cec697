"""The knobs of SiT."""

from __future__ import annotations

from autoslim.methods.knob import Knob, Ranges

MAX_STAGES = 3
"""As many as the paper's models have."""

RANGES: Ranges = {
    "stages": Knob(
        kind="choice", help="how often tokens are slimmed", default=MAX_STAGES, choices=tuple(range(1, MAX_STAGES + 1))
    ),
    **{
        f"stage_layer_{k}": Knob(kind="layer", help=f"block in front of which stage {k} slims", default=k / 4, low=0.0, high=1.0)
        for k in range(1, MAX_STAGES + 1)
    },
    **{
        f"keep_ratio_{k}": Knob(
            kind="float",
            help=f"share of the image's patches left by stage {k}",
            default=0.5**k,
            low=0.01,
            high=1.0,
            cost_sign=1,
        )
        for k in range(1, MAX_STAGES + 1)
    },
    "spare_until": Knob(
        kind="int",
        help="block up to which the last stage's tokens are one more (0: none); the solver's",
        default=0,
        low=0,
        high=1000,
        searched=False,
    ),
    "slots": Knob(
        kind="choice",
        help="what a made token's weights come from: learned rows (the paper), or a patch of the image",
        default="learned",
        choices=("learned", "image"),
    ),
    "sizes": Knob(
        kind="choice",
        help="how often a made token counts as a key: once (the paper), or as often as the patches that go into it",
        default="one",
        choices=("one", "patches"),
    ),
    "start": Knob(
        kind="choice",
        help="what slimming and reverse modules start from: random weights (the paper's code), or a fit to images",
        default="random",
        choices=("fitted", "random"),
    ),
    "sharpness": Knob(
        kind="float",
        help="how sharply a slimming module first tells patches apart, per variance of their features",
        default=20.0,
        low=2.0,
        high=200.0,
        log=True,
    ),
    # The paper's lambdas and temperature. A search draws them from a logarithm around the paper's; a recipe may leave a term out.
    "token_weight": Knob(
        kind="float",
        help="weight of the restored tokens' squared error",
        default=2.0,
        low=0.01,
        high=4.0,
        log=True,
        allowed=(0.0, 8.0),
    ),
    "token_error": Knob(
        kind="choice",
        help="squared error as it is (the paper), or over the variance of the teacher's patches",
        default="plain",
        choices=("relative", "plain"),
    ),
    "logit_weight": Knob(
        kind="float",
        help="weight of the divergence from the teacher",
        default=2.0,
        low=0.2,
        high=8.0,
        log=True,
        allowed=(0.0, 8.0),
    ),
    "temperature": Knob(
        kind="float", help="temperature of the divergence from the teacher", default=1.0, low=0.5, high=8.0, log=True
    ),
    "slimming_lr": Knob(
        kind="float", help="slimming modules' learning rate over the recipe's", default=1.0, low=0.2, high=20.0, log=True
    ),
    # As in the released code, whose reverse modules learn five times as fast as the rest.
    "reverse_lr": Knob(
        kind="float", help="reverse modules' learning rate over the recipe's", default=5.0, low=0.2, high=20.0, log=True
    ),
    "recalibrate": Knob(
        kind="choice",
        help="reverse modules accompany all of the training (the paper), or the first part of it",
        default="throughout",
        choices=("throughout", "first"),
    ),
    # Recalibration leaves trained weights: a second warm-up to the full rate loses accuracy again.
    "tune_lr": Knob(
        kind="float",
        help="learning rate over the recipe's once the reverse modules are gone",
        default=0.1,
        low=0.01,
        high=1.0,
        log=True,
    ),
    "train_share": Knob(
        kind="float", help="share of the epochs trained with the reverse modules", default=0.8, low=0.05, high=0.95
    ),
}
