"""A recipe and its plan as numbers, for the surrogate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.methods import METHODS
from autoslim.methods.knob import Knob

_ABSENT = -1.0


def names(methods: tuple[str, ...], shape: ViTShape) -> list[str]:
    """The name of each entry of `vector`."""
    blocks = [f"block {index} {part}" for index in range(shape.depth) for part in ("kv", "q", "mlp", "attention", "hidden")]
    knobs = [f"{method}.{knob}" for method in methods for knob in METHODS[method].ranges]
    return [*methods, "flops", "extras", "mean tokens", "mean width", "lr", "distillation", *blocks, *knobs]


def vector(recipe: Recipe, plan: Plan, methods: tuple[str, ...], shape: ViTShape) -> NDArray[np.float64]:
    """Counts are shares of the dense model's; a knob that the recipe does not have is -1."""
    (step,) = recipe.steps
    dense = predict(shape, Plan.dense(shape)).total
    blocks = [
        [
            block.tokens_kv / shape.tokens,
            block.tokens_q / shape.tokens,
            block.tokens_mlp / shape.tokens,
            block.attention_width / (shape.heads * shape.head_width),
            block.hidden / shape.hidden,
        ]
        for block in plan.blocks
    ]
    means = np.mean(blocks, axis=0)
    cost = predict(shape, plan)
    return np.array(
        [
            *(float(step.method == method) for method in methods),
            cost.total / dense,
            cost.extras / dense,
            means[:3].mean(),
            means[3:].mean(),
            math.log10(recipe.training.lr),
            recipe.training.distillation,
            *(number for block in blocks for number in block),
            *(number for method in methods for number in _knobs(method, step.method, step.knobs)),
        ]
    )


def _knobs(method: str, chosen: str, knobs: Mapping[str, Any]) -> list[float]:
    ranges = METHODS[method].ranges
    return [_number(knob, knobs[name]) if method == chosen and name in knobs else _ABSENT for name, knob in ranges.items()]


def _number(knob: Knob, value: Any) -> float:
    if knob.choices is not None:
        return float(next(index for index, choice in enumerate(knob.choices) if choice == value and type(choice) is type(value)))
    return math.log(value) if knob.log else float(value)
