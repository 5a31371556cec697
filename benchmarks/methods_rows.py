"""The rows of `methods_table.py`: autoslim's methods, variants of them with other knobs, chains, and the baselines."""

from __future__ import annotations

from collections.abc import Iterable

import baselines
from baselines.tome import CONSTANT, DECREASING

from autoslim.core.recipe import Knobs
from autoslim.methods.chain import REST_SHARE

OURS = (
    *("patch_slimming", "dps", "life_regression", "sit", "merge", "vit_slim", "width"),
    *("patch_slimming_merging", "life_regression_merging", "sit_seeded"),
)
VARIANTS: dict[str, tuple[str, Knobs]] = {
    "dps_merging": ("dps", {"dead": "merge"}),
    "patch_slimming_cover": ("patch_slimming", {"places": "cover"}),
    "patch_slimming_gradual": ("patch_slimming", {"gradual": 0.33}),
    "merge_fixed": ("merge", {"places": "fixed"}),
    "merge_learned": ("merge", {"embedding": "learned"}),
    "merge_criteria": ("merge", {"criteria": "several"}),
    "merge_learned_criteria": ("merge", {"embedding": "learned", "criteria": "several"}),
    "merge_consistency": ("merge", {"consistency": 3.0}),
    "merge_mctf": ("merge", {"criteria": "several", "consistency": 3.0}),
    # The former defaults; their search and their fine-tuning have the recipe's loss, those of the row `vit_slim` the labels' alone.
    "vit_slim_refit": (
        "vit_slim",
        {
            "l1": "even",
            "search_share": 0.1,
            "mask_lr": 100.0,
            "loss": "recipe",
            "tune_loss": "recipe",
            "start": "dense",
            "rule": "fall",
            "refit": True,
        },
    ),
    # The paper's, but taught by the dense model in the fine-tuning, as every other method here.
    "vit_slim_taught": ("vit_slim", {"tune_loss": "recipe"}),
    "life_regression_ours": (
        "life_regression",
        {
            "start": "impact",
            "last_reading": True,
            "dead": "merge",
            "loss": "recipe",
            "lr_decay": "cosine",
            "tune": "all",
            "train_share": 0.2,
        },
    ),
    # One option each, for what it is worth by itself.
    "life_regression_impact": ("life_regression", {"start": "impact"}),
    "life_regression_last_reading": ("life_regression", {"last_reading": True}),
    "life_regression_diversity": ("life_regression", {"diversity": 1.0}),
    "life_regression_anneal": ("life_regression", {"anneal": 16.0}),
    "life_regression_noise": ("life_regression", {"noise": 0.5}),
    "life_regression_gradual": ("life_regression", {"gradual": 0.33}),
    "dps_task": ("dps", {"learn_from": "task"}),
    "dps_task_noise": ("dps", {"learn_from": "task", "noise": 0.5}),
    "dps_gradual": ("dps", {"gradual": 0.33}),
    "sit_image_once": ("sit_seeded", {"stages": 1}),
    # Modules that are fitted to images, and errors over the teacher's variance.
    "sit_fitted": ("sit", {"start": "fitted", "token_error": "relative"}),
    "sit_sizes": ("sit", {"start": "fitted", "token_error": "relative", "sizes": "patches"}),
    "sit_image_sizes": ("sit_seeded", {"sizes": "patches"}),
    "sit_one_stage": ("sit", {"stages": 1, "start": "fitted", "token_weight": 0.1, "recalibrate": "first"}),
    "tome_constant": ("tome", {"slope": CONSTANT}),
    "tome_decreasing": ("tome", {"slope": DECREASING}),
}
"""Further rows, on request: a method or a baseline with knobs other than its defaults."""

BASELINES = (*baselines.BASELINES, *(row for row, (name, _) in VARIANTS.items() if name in baselines.BASELINES))
"""The baselines, and further rows of them, on request."""
CHAINS = ("width+patch_slimming", "width+merge")
"""Those of the space `default`."""
RESTS = {"rest": REST_SHARE, "long_rest": 0.2}
"""What may stand between the two methods of a chain, as in `width+rest+merge`: the share of the optimizer steps left that fine-tunes the
model there. All else is as in `width+merge`, whose methods both prune the dense model at once."""
ROWS = (
    *OURS,
    *("life_regression_ours", "sit_image_once", "sit_fitted", "vit_slim_taught"),
    *CHAINS,
    *baselines.BASELINES,
)
"""The rows of the table: every method with its defaults, what is ours in those of papers, the chains, and the baselines."""

DENSE, RANDOM = "dense", "random_tokens"

COMPARED = (
    ("merge", "tome"),
    ("merge", RANDOM),
    ("patch_slimming", RANDOM),
    ("patch_slimming", "random_places"),
    ("patch_slimming_merging", "patch_slimming"),
    ("life_regression_merging", "life_regression"),
    ("width", "vit_slim"),
    ("width", "vit_slim_taught"),
    ("width", "random_units"),
    ("width", "random_width"),
    ("width+merge", "width"),
    ("width+patch_slimming", "width"),
)
"""Pairs of rows with a question of their own: whether the first is ahead of the second."""


def _layers(knob: str, *layers: int) -> Knobs:
    return {f"{knob}_{k}": layer for k, layer in enumerate(layers, 1)}


ONE_STAGE = ("sit_one_stage", "sit_image_once")

DESIGN: dict[str, dict[str, Knobs]] = {
    "random_tokens": {"": _layers("drop_layer", 1, 2, 3)},
    "evit": {"": _layers("layer", 1, 3, 5)},
    **{name: {"35%": _layers("drop_layer", 1, 2, 3)} for name in ("life_regression", "life_regression_merging")},
    "vit_slim_refit": {"35%": {"patches": "up", "patch_share": 0.2}},
    **{row: {"70%": {"stage_layer_1": 3}, "50%": {"stage_layer_1": 2}, "35%": {"stage_layer_1": 1}} for row in ONE_STAGE},
}
"""Knobs other than the defaults, by row and budget (`""`: every other budget), selected on validation images."""


def unknown_row(rows: tuple[str, ...]) -> str | None:
    """The first of the rows that there is none of; a chain's methods may be variants."""
    return next((row for row in rows if row not in BASELINES and not set(chain_of_row(row)[0]) <= {*OURS, *VARIANTS}), None)


def chain_of_row(row: str) -> tuple[tuple[str, ...], float]:
    """The rows of its methods, and the share of its rest; 0 where it has none."""
    names = tuple(row.split("+"))
    if len(names) == 3 and names[1] in RESTS:
        return (names[0], names[2]), RESTS[names[1]]
    return names, 0.0


def pairs_with_rest(rows: Iterable[str]) -> list[tuple[str, str]]:
    """Each of the rows that has a rest, with the same chain without it."""
    return [(row, "+".join(names)) for row in rows for names, rest in [chain_of_row(row)] if rest]
