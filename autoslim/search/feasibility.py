"""What the recipes of a space can cost, per chain, before anything is trained: the least and the most FLOPs, the fewest parameters and the
lowest latency.

A space has too many recipes to try them all. The extremes are found by coordinate descent: from the best of a few random recipes, one
knob at a time moves to where the cost is lowest, until no knob moves. FLOPs are monotone in nearly every knob, so it is enough to try the
ends of ranges.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoslim.core.budget import format_flops
from autoslim.core.constraints import CostLimits, format_params
from autoslim.core.figures import format_figure
from autoslim.core.plan import Plan
from autoslim.core.recipe import Step, flat_knobs
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape
from autoslim.cost import predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.methods import METHODS, Constraints
from autoslim.methods.base import Method
from autoslim.methods.chain import SolvedChain, chain_label, evaluate_chain
from autoslim.methods.knob import Knob, layer_index
from autoslim.search.space.space import Chain, Sample, Space, Uniform, bounds

N_RANDOM_RECIPES = 24
"""Starting points that are drawn: enough to begin with each value of the choices that switch other knobs on (such as a number of drops)."""
N_DESCENTS = 3
"""Descents, from the best starting points: one alone may end where two knobs would have to change at once."""

Steps = tuple[Step, ...]
CostFunction = Callable[[SolvedChain], float]
"""What a descent lowers: the FLOPs, parameters or latency of a recipe, or minus its FLOPs where the costliest one is wanted."""
Evaluated = tuple[SolvedChain, Steps]
"""A recipe with the steps that it was evaluated from, before the methods repaired their knobs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostExtreme(Record):
    """The cheapest or the costliest recipe: its multiply-accumulates and its knobs; those of a chain as in `Recipe.flat_knobs`."""

    flops: int
    knobs: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feasibility(Record):
    """What the recipes of one chain can cost. `cheapest` and `costliest` are None where the space holds no recipe of it.

    `min_params` and `min_latency_ms` (predicted) are known only where there is such a limit.
    """

    cheapest: CostExtreme | None
    costliest: CostExtreme | None
    min_params: int | None = None
    min_latency_ms: float | None = None

    def reaches(self, flops: int, limits: CostLimits) -> bool:
        """Whether there are recipes within `flops` and within each of `limits`; a minimum that is not known is no reason against it."""
        if self.cheapest is None or self.cheapest.flops > flops:
            return False
        if limits.params is not None and self.min_params is not None and self.min_params > limits.params:
            return False
        return limits.latency_ms is None or self.min_latency_ms is None or self.min_latency_ms <= limits.latency_ms


def feasibility(
    space: Space,
    shape: ViTShape,
    plan: Plan,
    methods: Mapping[str, Method] = METHODS,
    constraints: Mapping[str, Constraints] | None = None,
) -> dict[str, Feasibility]:
    """By label of each chain of the space that `constraints` names; without them, of each chain of these `methods`.

    `plan` is what recipes start from.
    """
    units = space.units_of(methods)
    wanted = dict.fromkeys(units, Constraints()) if constraints is None else constraints
    return {label: ExtremeSearch(space, shape, plan, methods, units[label]).feasibility(own) for label, own in wanted.items()}


@dataclasses.dataclass(frozen=True)
class ExtremeSearch:
    """Searches for extreme recipes of one chain."""

    space: Space
    shape: ViTShape
    plan: Plan
    methods: Mapping[str, Method]
    chain: Chain

    def feasibility(self, constraints: Constraints) -> Feasibility:
        # A minimum without a limit on it would be searched in vain; FLOPs always have one, the budget.
        # Each minimum needs descents of its own, so that only those are searched that a limit asks for.
        minima: dict[str, Any] = {}
        if constraints.limits.params is not None:
            minima["min_params"] = self._minimum(lambda solved: predict_params(self.shape, solved.plan))
        if constraints.limits.latency_ms is not None and (timer := constraints.timer) is not None:
            minima["min_latency_ms"] = self._minimum(lambda solved: timer(solved.plan))
        return Feasibility(
            cheapest=self._extreme(lambda solved: solved.flops), costliest=self._extreme(lambda solved: -solved.flops), **minima
        )

    @functools.cached_property
    def _starts(self) -> list[Evaluated]:
        starts = []
        for number in range(N_RANDOM_RECIPES):
            # Fixed seeds: a space has the same extremes in every process.
            sample = self.space.sample(Uniform(f"reach:{number}"), self.methods, self.shape, units=[chain_label(self.chain)])
            solved = self._evaluate(sample.steps)
            if solved is not None:
                starts.append((solved, sample.steps))
        return starts

    def _minimum(self, cost: CostFunction) -> Any:
        found = self._descend(cost)
        return None if found is None else cost(found[0])

    def _extreme(self, cost: CostFunction) -> CostExtreme | None:
        found = self._descend(cost)
        if found is None:
            return None
        solved = found[0]
        knobs = solved.steps[0].knobs if len(solved.steps) == 1 else flat_knobs(solved.steps)
        return CostExtreme(flops=solved.flops, knobs=knobs)

    def _descend(self, cost: CostFunction) -> Evaluated | None:
        """Where `cost` is lowest; None without a starting point."""
        best: Evaluated | None = None
        # The cheapest draws are nearest to the minimum, and take the fewest sweeps.
        for start in sorted(self._starts, key=lambda start: cost(start[0]))[:N_DESCENTS]:
            at = start
            # A sweep may switch a knob on that only the next sweep can move.
            while cost((moved := self._sweep(at, cost))[0]) != cost(at[0]):
                at = moved
            if best is None or cost(at[0]) < cost(best[0]):
                best = at
        return best

    def _sweep(self, at: Evaluated, cost: CostFunction) -> Evaluated:
        """Moves each knob in turn to where `cost` is lowest."""
        for position, name in enumerate(self.chain):
            for knob in self._free_knobs(position):
                # Greedy: the next knob starts from the best value of this one.
                for value in _extreme_values(self.space.methods[name][knob], self.shape.depth):
                    steps = _with_knob(at[1], position, knob, value)
                    solved = self._evaluate(steps)
                    # Only strictly lower costs, so that a descent ends.
                    if solved is not None and cost(solved) < cost(at[0]):
                        at = solved, steps
        return at

    def _free_knobs(self, position: int) -> list[str]:
        """The step's knobs that the steps behind it leave free."""
        method = self.methods[self.chain[position]]
        is_last = position == len(self.chain) - 1
        return [knob for knob in method.ranges if is_last or knob not in method.before_others]

    def _evaluate(self, steps: Steps) -> SolvedChain | None:
        """None where the repaired knobs are outside the space, or a knob does not fit this model."""
        try:
            solved = evaluate_chain(self.methods, self.shape, self.plan, tuple(map(self._completed, steps)))
        except UnsupportedModelError:
            return None
        # Repairing, such as sorting drops by block, may have moved knobs out of the user's ranges: then no trial could have this
        # recipe.
        return solved if self.space.contains(Sample(steps=solved.steps, training={}), self.shape) else None

    def _completed(self, step: Step) -> Step:
        """A knob that a move has switched on starts from its default within the space; the method's own may be outside."""
        full = dict(step.knobs)
        for name, knob in self.space.methods[step.method].items():
            if name not in full:
                full[name] = layer_index(knob.default, self.shape.depth) if knob.kind == "layer" else knob.default
        return step.replace(knobs=full)


def _with_knob(steps: Steps, position: int, knob: str, value: Any) -> Steps:
    changed = steps[position].replace(knobs={**steps[position].knobs, knob: value})
    return (*steps[:position], changed, *steps[position + 1 :])


def recipes_per_sweep(space: Space, shape: ViTShape) -> int:
    """How many recipes one sweep over the knobs of every chain evaluates; a feasibility takes some dozens of sweeps."""
    ranges = [space.methods[name] for chain in space.units.values() for name in chain]
    return sum(len(_extreme_values(knob, shape.depth)) for knobs in ranges for knob in knobs.values())


def _extreme_values(knob: Knob, depth: int) -> list[Any]:
    """Values of a knob at which a cost may be extreme."""
    if not knob.searched:
        return []
    if knob.choices is not None:
        return list(knob.choices)
    low, high = bounds(knob, depth)
    # Every block of a `layer`: at an end, two drops may fall on the same block, which can be outside the space.
    return list(range(int(low), int(high) + 1)) if knob.kind == "layer" else [low, high]


def describe_unreachable(
    label: str, flops: int, limits: CostLimits, found: Mapping[str, Feasibility], space_name: str, others: Sequence[str]
) -> str:
    """Why no method of the space reaches a budget, and what each of them reaches; `others` are methods that could remove parameters."""
    spans = ", ".join(
        f"{name} {format_flops(one.cheapest.flops)} to {format_flops(one.costliest.flops)}"
        for name, one in found.items()
        if one.cheapest is not None and one.costliest is not None
    )
    # FLOPs first: where they are out of reach, the limits beside them do not matter.
    if not any(one.cheapest is not None and one.cheapest.flops <= flops for one in found.values()):
        return (
            f"budget {label} is {format_flops(flops)} multiply-accumulates, which nothing in the space {space_name!r} can reach; "
            f"it reaches {spans}"
        )
    minima = ", ".join(filter(None, (_describe_minima(name, one) for name, one in found.items())))
    can = f"; {' and '.join(others)} can remove parameters" if limits.params is not None and others else ""
    return f"{limits.flags}: nothing in the space {space_name!r} can reach this; the least is {minima}{can}"


def _describe_minima(name: str, found: Feasibility) -> str:
    parts = [
        None if found.min_latency_ms is None else f"{format_figure(found.min_latency_ms)} ms",
        None if found.min_params is None else f"{format_params(found.min_params)} parameters",
    ]
    text = " and ".join(part for part in parts if part)
    return f"{name} {text}" if text else ""
