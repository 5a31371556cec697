"""`Mutation`: draws in the neighbourhood of a good recipe."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from autoslim.core.recipe import Recipe
from autoslim.search.space.space import Space, Uniform, moved_layer

_MUTATION_PROBABILITY = 0.3
"""Of each value. Most values stay, so that what made the parent good is mostly kept."""
_STEP = 0.15
"""Standard deviation of a move, as a share of the range (of its logarithm where the knob is logarithmic)."""


def values_of(
    recipe: Recipe, space: Space, split: float | None = None, *, depth: int | None = None, asked_depth: int | None = None
) -> dict[str, Any]:
    """A recipe's settings under the names that a space asks a `Suggest` for; `split` is that of a recipe with several steps.

    `depth` is that of the recipe's model and `asked_depth` the one in which the space asks for layers, where they may differ.
    """
    values: dict[str, Any] = {"method": recipe.method, **recipe.flat_knobs} | ({"model": recipe.model} if recipe.model else {})
    if depth is not None and asked_depth is not None:
        for step in recipe.steps:
            for name, knob in space.methods.get(step.method, {}).items():
                if name in step.knobs:
                    values[f"{step.method}.{name}"] = moved_layer(knob, step.knobs[name], depth, asked_depth)
    if split is not None:
        values["split"] = split
    return values | {f"training.{name}": getattr(recipe.training, name) for name in space.training}


class Mutation:
    """A `Suggest` around `values`: the method stays, and each other value changes with a probability, the model included.

    A value that the parent does not have, because another choice has made its knob active, is drawn uniformly.
    """

    def __init__(self, values: Mapping[str, Any], seed: str) -> None:
        self._values = values
        self._random = random.Random(seed)  # noqa: S311 - nothing secret
        self._uniform = Uniform(f"{seed} blind")

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if name not in self._values:
            return self._uniform.suggest_float(name, low, high, log=log)
        # The solver may have moved the parent's value a little out of its range.
        value = min(max(float(self._values[name]), low), high)
        return self._moved(value, low, high, log=log) if self._random.random() < _MUTATION_PROBABILITY else value

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        if name not in self._values:
            return self._uniform.suggest_int(name, low, high, log=log)
        value = min(max(int(self._values[name]), low), high)
        if self._random.random() >= _MUTATION_PROBABILITY or low == high:
            return value
        moved = round(self._moved(value, low, high, log=log))
        if moved != value:
            return moved
        # In a short range most moves round back to the value: a step to a neighbour makes it a mutation.
        return min(max(value + self._random.choice((-1, 1)), low), high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        # A start that reaches the parent's budget need not reach this one.
        is_known = name in self._values and (name != "model" or self._values[name] in choices)
        if not is_known or (name != "method" and self._random.random() < _MUTATION_PROBABILITY):
            return self._uniform.suggest_categorical(name, choices)
        return self._values[name]

    def _moved(self, value: float, low: float, high: float, *, log: bool) -> float:
        if not log:
            return min(max(value + self._random.gauss(0.0, _STEP * (high - low)), low), high)
        return min(max(value * math.exp(self._random.gauss(0.0, _STEP * math.log(high / low))), low), high)
