"""A recipe as the parameters of an Optuna trial: `replay` asks the space for a point and answers with the recipe's own values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autoslim.core.recipe import Recipe, Step
from autoslim.core.shape import ViTShape
from autoslim.errors import SpaceError, UnsupportedModelError
from autoslim.methods.base import Method
from autoslim.methods.chain import split_of_recipe
from autoslim.methods.knob import Knob, layer_index
from autoslim.search.samplers.mutation import values_of
from autoslim.search.space.space import Sample, Space, Uniform, is_same_value, sample_knob


class Replay:
    """A `Suggest` that answers with given values and records the distributions that they are asked from."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        # Methods round to whole token counts, which may move a value a little out of its range; Optuna refuses such values.
        return float(self._record(name, FloatDistribution(low, high, log=log), min(max(self._values[name], low), high)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._record(name, IntDistribution(low, high, log=log), self._values[name]))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = next(choice for choice in choices if is_same_value(choice, self._values[name]))
        return self._record(name, CategoricalDistribution(choices), value)

    def fill(self, name: str, knob: Knob, depth: int, random: Uniform | None) -> None:
        """Adds a knob that the recipe does not have: a draw from `random`, or the knob's default."""
        default = layer_index(knob.default, depth) if knob.kind == "layer" else knob.default
        self._values[name] = default if random is None else sample_knob(random, name, knob, depth)
        sample_knob(self, name, knob, depth)

    def _record(self, name: str, distribution: BaseDistribution, value: Any) -> Any:
        self.params[name], self.distributions[name] = value, distribution
        return value


def replay(
    recipe: Recipe,
    space: Space,
    methods: Mapping[str, Method],
    shape: ViTShape,
    *,
    units: Sequence[str] | None = None,
    models: Sequence[str] = (),
    asked_depth: int | None = None,
) -> Replay | None:
    """The recipe in a study that chooses from the chains with the labels `units`; None: from all chains of these `methods`.

    `shape` is that of the recipe's model. Where there are several starts, `models` are those that the study chooses from, and
    `asked_depth` is as in `Space.sample`.

    None for a recipe that is no point of this space: it has another chain or values outside the ranges, or it was made for a space with
    other knobs.
    """
    units = list(space.units_of(methods)) if units is None else units
    if recipe.method not in units or (models and recipe.model not in models):
        return None
    settings = {key: getattr(recipe.training, key) for key in space.settings_of(recipe.steps, methods)}
    try:
        split = split_of_recipe(recipe, methods, shape)
    except (SpaceError, UnsupportedModelError):
        # Its methods do not have these knobs any more, or it was infeasible.
        return None
    if not space.contains(Sample(steps=recipe.steps, training=settings, split=split), shape):
        return None
    replayed = Replay(values_of(recipe, space, split, depth=shape.depth, asked_depth=asked_depth))
    if len(models) > 1:
        replayed.suggest_categorical("model", models)
    try:
        sample = space.sample(replayed, methods, shape, units=units, asked_depth=asked_depth)
    except KeyError:
        # The space asks for a knob that the recipe does not have.
        return None
    # A recipe with knobs that the space does not ask for was made for another space. What no space asks for may be younger than the recipe.
    same = all(_asked(one, methods) == _asked(other, methods) for one, other in zip(sample.steps, recipe.steps, strict=True))
    return replayed if same else None


def _asked(step: Step, methods: Mapping[str, Method]) -> set[str]:
    ranges = methods[step.method].ranges
    return {name for name in step.knobs if ranges[name].searched}


def flat_replay(
    recipe: Recipe,
    space: Space,
    methods: Mapping[str, Method],
    shape: ViTShape,
    *,
    constant: bool,
    units: Sequence[str] | None = None,
    models: Sequence[str] = (),
    asked_depth: int | None = None,
) -> Replay | None:
    """Like `replay`, with the knobs of all methods and all training settings, for samplers without conditional parameters.

    What the recipe does not have did not influence its result. They get their defaults where `constant`, otherwise random values
    seeded with the recipe's key, so that the same recipe always gets the same ones.
    """
    replayed = replay(recipe, space, methods, shape, units=units, models=models, asked_depth=asked_depth)
    if replayed is None:
        return None
    depth = shape.depth if asked_depth is None else asked_depth
    random = None if constant else Uniform(recipe.key)
    chains = [space.units[unit] for unit in (space.units_of(methods) if units is None else units)]
    for method in (name for name in methods if any(name in chain for chain in chains)):
        for name in methods[method].ranges:
            knob, full = space.methods[method][name], f"{method}.{name}"
            if knob.searched and full not in replayed.params:
                replayed.fill(full, knob, depth, random)
    for name, knob in space.training.items():
        if f"training.{name}" not in replayed.params:
            replayed.fill(f"training.{name}", knob, depth, random)
    if any(len(chain) > 1 for chain in chains) and "split" not in replayed.params:
        replayed.fill("split", space.split, depth, random)
    return replayed
