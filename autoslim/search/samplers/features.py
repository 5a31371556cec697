"""A recipe with its plan as a vector: what a model that learns across methods and budgets can tell recipes by.

Plan features are common to all methods (tokens and widths of each block, as shares of the dense model's), knobs are each method's own.
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
from autoslim.methods.knob import Knob
from autoslim.search.space.space import Space, same

Vector = NDArray[np.float64]

_ABSENT = -1.0
_REGIONS = 4
"""Blocks are averaged over so many stretches of the depth, so that a deep model has no more features than a shallow one."""


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Vectors of one space and shape; their first entry is the plan's FLOPs over the dense model's."""

    space: Space
    shape: ViTShape
    methods: Mapping[str, Method]
    start: Plan

    def encode(self, recipe: Recipe, plan: Plan) -> Vector:
        (step,) = recipe.steps
        parts = [self._of_plan(plan)]
        for name, ranges in self.space.methods.items():
            chosen = name == step.method
            values = [
                _number(ranges[knob], step.knobs.get(knob)) if chosen else _ABSENT for knob in ranges if _varies(ranges[knob])
            ]
            parts.append(np.array([float(chosen), *values]))
        training = [_number(knob, getattr(recipe.training, name)) for name, knob in self.space.training.items()]
        return np.concatenate([*parts, np.array(training)])

    def plan_of(self, recipe: Recipe) -> Plan:
        (step,) = recipe.steps
        return self.methods[step.method].expect(self.shape, self.start, step.knobs)

    def _of_plan(self, plan: Plan) -> Vector:
        shape = self.shape
        cost, dense = predict(shape, plan), predict(shape, self.start).total
        blocks = np.array([[b.tokens_kv, b.tokens_q, b.tokens_mlp, b.attention_width, b.hidden] for b in plan.blocks], float)
        blocks /= [shape.tokens, shape.tokens, shape.tokens, shape.heads * shape.head_width, shape.hidden]
        regions = [region.mean(0) for region in np.array_split(blocks, min(_REGIONS, len(blocks)))]
        return np.concatenate([[cost.total / dense, cost.extras / dense], blocks.mean(0), *regions])


def _varies(knob: Knob) -> bool:
    """A fixed knob tells nothing."""
    return len(knob.choices) > 1 if knob.choices is not None else knob.low != knob.high


def _number(knob: Knob, value: Any) -> float:
    """Of a range its place in it, of choices their place in the list."""
    if value is None:
        return _ABSENT
    if knob.choices is not None:
        return float(next(place for place, choice in enumerate(knob.choices) if same(choice, value)))
    if knob.kind == "layer":
        return float(value)
    assert knob.low is not None and knob.high is not None
    low, high = (math.log(knob.low), math.log(knob.high)) if knob.log else (knob.low, knob.high)
    place = math.log(value) if knob.log else float(value)
    return (place - low) / (high - low) if high > low else 0.0
