"""A recipe with its plan as a vector, the input of the surrogate.

The plan's features are the same for all methods: tokens and widths of the blocks, as shares of the dense model's. They let the surrogate
use a trial of one method for another. The knobs are each method's own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
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
from autoslim.search.prior.table import PriorTrial, block_shares
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
        cost, dense = predict(self.shape, plan), self.unit or predict(self.shape, self.dense_plan).total
        shares = self._of_plan([cost.total / dense, cost.extras / dense], block_shares(plan, self.shape))
        effective = self.space.settings_of(recipe.steps, self.methods)
        training = [
            _number(self.space.training[key], getattr(recipe.training, key) if key in effective else None)
            for key in TRAINING
            if key in self.space.training
        ]
        split = self._split(recipe) if self.space.composes else 1.0
        models = [float(recipe.model == label) for label in self.models]
        return self._joined([*shares, *models], split, {step.method: step.knobs for step in recipe.steps}, self._number, training)

    def encode_prior(self, trial: PriorTrial) -> Vector:
        """The same vector for a trial of another model, whose methods are among the space's; of one start (no `models`).

        A value outside the space is its nearest end, or a choice of its own. The training settings are those of no trial: which learning
        rate is best depends on the data and on the number of steps, and says nothing about another search.
        """
        shares = self._of_plan([trial.flops, trial.extras], trial.blocks)
        training = [_ABSENT for key in TRAINING if key in self.space.training]
        return self._joined(list(shares), trial.split, {step.method: step.knobs for step in trial.steps}, self._nearest, training)

    def _joined(
        self,
        shares: Sequence[float],
        split: float,
        knobs_of: Mapping[str, Mapping[str, Any]],
        number: Callable[[Knob, Any], float],
        training: Sequence[float],
    ) -> Vector:
        parts = [np.array(shares)]
        if self.space.composes:
            parts.append(np.array([split]))
        # In the registry's order: a space that was read back from JSON has another one.
        for name in (name for name in self.methods if name in self.space.methods):
            chosen, ranges = name in knobs_of, self.space.methods[name]
            # No tree can split on a constant, so that fixed knobs are left out.
            varying = [knob for knob in self.methods[name].ranges if _varies(ranges[knob])]
            values = [number(ranges[knob], knobs_of[name].get(knob)) if chosen else _ABSENT for knob in varying]
            parts.append(np.array([float(chosen), *values]))
        return np.concatenate([*parts, np.array(training)])

    def _number(self, knob: Knob, value: Any) -> float:
        depth = self.shape.depth
        return _number(knob, value if value is None else moved_layer(knob, value, depth, self.asked_depth or depth))

    def _nearest(self, knob: Knob, value: Any) -> float:
        """As `_number`, for a value of a `PriorTrial`, which may be outside the knob's range."""
        if value is None:
            return _ABSENT
        if knob.choices is not None:
            return (
                _number(knob, value) if any(is_same_value(choice, value) for choice in knob.choices) else float(len(knob.choices))
            )
        if knob.kind == "layer":
            return float(value) * (self.asked_depth or self.shape.depth)
        assert knob.low is not None and knob.high is not None
        return _number(knob, min(max(float(value), knob.low), knob.high))

    def _split(self, recipe: Recipe) -> float:
        """The share of the reduction that the first step bears; 1 for a method alone."""
        split = split_of_recipe(recipe, self.methods, self.shape)
        return 1.0 if split is None else split

    def _of_plan(self, costs: Sequence[float], blocks: Sequence[Sequence[float]]) -> Vector:
        # Where tokens and widths go matters as much as how many: early blocks and late ones are averaged apart.
        table = np.array(blocks)
        regions = [region.mean(0) for region in np.array_split(table, min(_REGIONS, self.shape.depth))]
        return np.concatenate([costs, table.mean(0), *regions])


def _varies(knob: Knob) -> bool:
    """Whether the knob can differ between recipes of a search."""
    if knob.choices is not None and not knob.searched:
        return False
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
