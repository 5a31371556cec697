"""`BestKnown`: the recipes that a search opens with, in place of random draws.

Of each chain these are the space's defaults and the best trials of other models, with their knobs moved into the space, and solved onto
the trial's budget. A surrogate of the other models' trials decides between them; without such trials it is the defaults. For a low budget
the defaults' blocks come forward (`solver.with_default_layers`); where none of all these reaches the budget, the chain's cheapest recipe is
solved onto it.

Where the search has several dense models there is one of these for each: what a method's best recipe is can be told from one model to
another, but not which model is better, so that no sampler's own surrogate begins with theirs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from autoslim.core.recipe import Step
from autoslim.core.result import Target
from autoslim.cost import predict
from autoslim.methods.chain import chain_of
from autoslim.methods.knob import layer_index
from autoslim.search.budget_allocation import Assignment
from autoslim.search.feasibility import Feasibility
from autoslim.search.prior import Prior
from autoslim.search.proposal import Proposal
from autoslim.search.recipe_builder import RecipeBuilder
from autoslim.search.samplers.features import Encoder
from autoslim.search.samplers.prior_fit import LevelledTrial, fit_prior, levelled
from autoslim.search.samplers.surrogate import Surrogate
from autoslim.search.space.space import Sample, is_same_value

N_TRIALS = 8
"""Trials of other models that a chain is opened with. Solving them onto the budget takes nearly all of the time of a proposal."""
NEAR = 0.2
"""How far the FLOPs of such a trial may be from the budget, as a share of the dense model's: 10 % asks for other knobs than 50 %."""


class Nearest:
    """A `Suggest` that answers with given values, each moved into the range that it is asked from, and with `defaults` for the others."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._values, self._defaults = {**defaults, **values}, defaults

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return min(max(float(self._values[name]), low), high)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return min(max(int(self._values[name]), low), high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        wanted = [self._values[name], self._defaults.get(name)]
        return next((choice for value in wanted for choice in choices if is_same_value(choice, value)), choices[0])


class BestKnown:
    """A function of its arguments. `builder` is that of one start, which all its recipes are for; `feasibility` has what its chains can
    cost, by label.

    `surrogate` predicts minus the accuracy lost, up to a constant; None where too few trials of other models are known.
    """

    def __init__(self, builder: RecipeBuilder, prior: Prior, feasibility: Mapping[str, Feasibility]) -> None:
        self._builder, self._feasibility = builder, feasibility
        self._encoder = Encoder.of(builder, "")
        self._trials = levelled(prior, self._encoder)
        self.surrogate: Surrogate | None = fit_prior(self._trials, self._encoder, seed=builder.seed)
        self._dense_flops = predict(builder.shape, builder.dense_plan).total
        self._defaults = self._default_values()

    def ranked(self, labels: Sequence[str]) -> list[str]:
        """The chains with these labels, first those whose methods lost the least for their FLOPs with other models.

        A short search ends before it has tried all of them.
        """
        own: dict[str, list[float]] = {}
        for one in self._trials:
            for step in one.trial.steps:
                own.setdefault(step.method, []).append(one.ahead)
        # Of each method the best quarter: a search keeps the best recipes, however bad the others are.
        worth = {name: float(np.mean(sorted(ahead)[-math.ceil(len(ahead) / 4) :])) for name, ahead in own.items()}
        # A method that no table has is put in the middle.
        usual = float(np.median(list(worth.values()))) if worth else 0.0
        means = {label: np.mean([worth.get(name, usual) for name in chain_of(label)]) for label in labels}
        return sorted(labels, key=lambda label: -means[label])

    def proposals(self, number: int, assignment: Assignment, known: Set[str]) -> list[Proposal]:
        """What the assignment's one chain is opened with, the most promising first, without recipes whose keys are `known`."""
        (label,) = assignment.methods
        samples = self.samples(label, self._builder.budget_of(assignment))
        feasible = self._feasible(number, assignment, samples)
        if not feasible:
            feasible = self._feasible(number, assignment, self._cheapest(samples[0]))
        fresh = [proposal for proposal in feasible if proposal.recipe.key not in known]
        return fresh if self.surrogate is None else sorted(fresh, key=self._promise, reverse=True)

    def _feasible(self, number: int, assignment: Assignment, samples: Sequence[Sample]) -> list[Proposal]:
        built = [self._builder.build(number, assignment, sample) for sample in samples]
        return [proposal for proposal in built if proposal.infeasible is None]

    def samples(self, label: str, budget: int | None, count: int = N_TRIALS) -> list[Sample]:
        """Points of the space: the defaults of the chain with this label, and `count` others that trials of other models speak for.

        With a `budget` the defaults leave their blocks to the solver: where they are by default, many budgets are out of reach.
        """
        by_step = [self._best_steps(name, budget)[:count] for name in chain_of(label)]
        # The best of the one with the best of the other: no table has trials of every chain.
        found = [self._values(steps) for steps in zip(*by_step, strict=False)]
        chosen = {"method": label, "model": self._builder.model}
        draws = [Nearest({**values, **chosen}, self._defaults) for values in [{}, *found]]
        defaults, *others = [self._builder.sample(draw, [label]) for draw in draws]
        return [defaults if budget is None else self._without_blocks(defaults), *others]

    def _without_blocks(self, sample: Sample) -> Sample:
        ranges = self._builder.space.methods
        steps = [
            step.replace(knobs={name: value for name, value in step.knobs.items() if ranges[step.method][name].kind != "layer"})
            for step in sample.steps
        ]
        return dataclasses.replace(sample, steps=tuple(steps))

    def _cheapest(self, sample: Sample) -> list[Sample]:
        """`sample` with the knobs of its chain's cheapest recipe; none where that is not known."""
        found = self._feasibility.get(sample.method)
        if found is None or found.cheapest is None:
            return []
        knobs = found.cheapest.knobs
        # Those of a chain are named as in `Recipe.flat_knobs`.
        flat = knobs if len(sample.steps) > 1 else {f"{sample.method}.{name}": value for name, value in knobs.items()}
        steps = [
            step.replace(
                knobs={
                    name.removeprefix(f"{step.method}."): value
                    for name, value in flat.items()
                    if name.startswith(f"{step.method}.")
                }
            )
            for step in sample.steps
        ]
        return [dataclasses.replace(sample, steps=tuple(steps))]

    def _promise(self, proposal: Proposal) -> float:
        """The accuracy that can be expected at a budget, of a free trial the area that it adds to the front; both up to a constant."""
        assert self.surrogate is not None and proposal.plan is not None
        vector = self._encoder.encode(proposal.recipe, proposal.plan)
        kept = float(self.surrogate.predict([vector]).mean())
        if proposal.target != Target.FREE:
            return kept
        # As if the dense model made no mistake: how accurate it is, a surrogate of other models' trials cannot know.
        return (1.0 + kept - self._builder.shape.chance) * (1.0 - float(vector[0]))

    def _best_steps(self, method: str, budget: int | None) -> list[Step]:
        """The method's steps in the trials that are furthest ahead of others of the same FLOPs, the best first."""
        own = [one for one in self._trials if any(step.method == method for step in one.trial.steps)]
        if budget is not None:
            own = [one for one in own if abs(one.trial.flops - budget / self._dense_flops) <= NEAR]
        best = sorted(own, key=_ahead, reverse=True)
        return [step for one in best for step in one.trial.steps if step.method == method]

    @property
    def _asked_depth(self) -> int:
        """The depth of the model whose blocks a space asks for."""
        return self._builder.asked_depth or self._builder.shape.depth

    def _values(self, steps: Sequence[Step]) -> dict[str, Any]:
        """By the names under which a space asks for them. Training settings stay the job's: other models' depend on their images."""
        ranges, depth = self._builder.space.methods, self._asked_depth
        values = {}
        for step in steps:
            for name, value in step.knobs.items():
                # A table of another version may have knobs that the method has lost.
                if name in ranges[step.method]:
                    is_layer = ranges[step.method][name].kind == "layer"
                    values[f"{step.method}.{name}"] = layer_index(value, depth) if is_layer else value
        return values

    def _default_values(self) -> dict[str, Any]:
        space, depth = self._builder.space, self._asked_depth
        values: dict[str, Any] = {"split": space.split.default}
        for method, ranges in space.methods.items():
            for name, knob in ranges.items():
                values[f"{method}.{name}"] = layer_index(knob.default, depth) if knob.kind == "layer" else knob.default
        return values | {f"training.{name}": getattr(self._builder.training, name) for name in space.training}


def _ahead(one: LevelledTrial) -> float:
    return one.ahead
