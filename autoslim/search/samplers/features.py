"""A recipe with its plan as a vector, the input of the surrogate.

The plan's features are the same for all methods: tokens and widths of the blocks, as shares of the dense model's. They let the surrogate
use a trial of one method for another. The knobs are each method's own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.methods.base import Method
from autoslim.methods.chain import split_of_recipe
from autoslim.methods.knob import Knob
from autoslim.search.recipe_builder import RecipeBuilder
from autoslim.search.space.space import TRAINING, Space, is_same_value, moved_layer

Vector = NDArray[np.float64]

_ABSENT = -1.0
"""A knob that the recipe does not have. Encoded knobs are never negative, so one split of a tree separates it."""
_REGIONS = 4
"""Blocks are averaged over this many regions of the depth: a vector does not grow with the model."""


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Encodes recipes of one space and model. The first entry is the plan's FLOPs as a share of `unit`, or else of `dense_plan`'s.

    Where there are several starts, `models` are their labels, `unit` are the FLOPs of the first one's dense model, in which budgets are
    compared, and `asked_depth` is the depth of the deepest.
    """

    space: Space
    shape: ViTShape
    methods: Mapping[str, Method]
    dense_plan: Plan
    models: tuple[str, ...] = ()
    unit: int | None = None
    asked_depth: int | None = None

    @classmethod
    def of(cls, builder: RecipeBuilder, model: str) -> Encoder:
        """For the recipes of one start of a search."""
        own = builder.of(model)
        return cls(
            own.space,
            own.shape,
            own.methods,
            own.dense_plan,
            models=tuple(start.label for start in builder.starts),
            unit=predict(builder.shape, builder.dense_plan).total,
            asked_depth=own.asked_depth,
        )

    def encode(self, recipe: Recipe, plan: Plan) -> Vector:
        """One vector. Methods are flags, so that trials of a method alone tell about the chains with it."""
        knobs_of = {step.method: step.knobs for step in recipe.steps}
        parts = [self._of_plan(plan)]
        if self.models:
            parts.append(np.array([float(recipe.model == label) for label in self.models]))
        if self.space.composes:
            parts.append(np.array([self._split(recipe)]))
        # In the registry's order: a space that was read back from JSON has another one.
        for name in (name for name in self.methods if name in self.space.methods):
            chosen, ranges = name in knobs_of, self.space.methods[name]
            # No tree can split on a constant, so that fixed knobs are left out.
            varying = [knob for knob in self.methods[name].ranges if _varies(ranges[knob])]
            values = [self._number(ranges[knob], knobs_of[name].get(knob)) if chosen else _ABSENT for knob in varying]
            parts.append(np.array([float(chosen), *values]))
        effective = self.space.settings_of(recipe.steps, self.methods)
        training = [
            _number(self.space.training[key], getattr(recipe.training, key) if key in effective else None)
            for key in TRAINING
            if key in self.space.training
        ]
        return np.concatenate([*parts, np.array(training)])

    def _number(self, knob: Knob, value: Any) -> float:
        depth = self.shape.depth
        return _number(knob, value if value is None else moved_layer(knob, value, depth, self.asked_depth or depth))

    def _split(self, recipe: Recipe) -> float:
        """The share of the reduction that the first step bears; 1 for a method alone."""
        split = split_of_recipe(recipe, self.methods, self.shape)
        return 1.0 if split is None else split

    def _of_plan(self, plan: Plan) -> Vector:
        shape = self.shape
        cost, dense = predict(shape, plan), self.unit or predict(shape, self.dense_plan).total
        blocks = np.array([[b.tokens_kv, b.tokens_q, b.tokens_mlp, b.attention_width, b.hidden] for b in plan.blocks], float)
        blocks /= [[own.tokens, own.tokens, own.tokens, own.attention_width, own.hidden] for own in shape.blocks]
        # Where tokens and widths go matters as much as how many: early blocks and late ones are averaged apart.
        regions = [region.mean(0) for region in np.array_split(blocks, min(_REGIONS, len(blocks)))]
        return np.concatenate([[cost.total / dense, cost.extras / dense], blocks.mean(0), *regions])


def _varies(knob: Knob) -> bool:
    """Whether the knob can differ between recipes."""
    return len(knob.choices) > 1 if knob.choices is not None else knob.low != knob.high


def _number(knob: Knob, value: Any) -> float:
    """A value of a range as its position from 0 to 1, a choice as its index, a `layer` as its block."""
    if value is None:
        return _ABSENT
    if knob.choices is not None:
        return float(next(index for index, choice in enumerate(knob.choices) if is_same_value(choice, value)))
    if knob.kind == "layer":
        return float(value)
    assert knob.low is not None and knob.high is not None
    low, high = (math.log(knob.low), math.log(knob.high)) if knob.log else (knob.low, knob.high)
    position = math.log(value) if knob.log else float(value)
    return (position - low) / (high - low) if high > low else 0.0
