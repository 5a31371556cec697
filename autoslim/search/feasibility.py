"""The cheapest and the dearest recipe of a space, and the least that it has of what else is limited, per method, before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from autoslim.core.budget import format_flops
from autoslim.core.constraints import CostLimits, format_params
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape
from autoslim.cost import predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.methods import METHODS, Constraints
from autoslim.methods.base import Method
from autoslim.methods.knob import Knob, layer_index
from autoslim.methods.solver import Solved, evaluate
from autoslim.search.space.space import Draw, Space, Uniform, bounds

_STARTS = 24
_DESCENTS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostRange(Record):
    flops: int
    knobs: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feasibility(Record):
    """`None` where the space holds no recipe that the method leaves inside it.

    `least_params` and `least_ms` are the fewest parameters and the shortest predicted latency, where there are such limits.
    """

    cheapest: CostRange | None
    dearest: CostRange | None
    least_params: int | None = None
    least_ms: float | None = None


Ceilings = Mapping[str, Constraints]
"""By method."""

_Cost = Callable[[Solved], float]


def feasibility(
    space: Space, shape: ViTShape, plan: Plan, methods: Mapping[str, Method] = METHODS, all_constraints: Ceilings | None = None
) -> dict[str, Feasibility]:
    """By coordinate descent from the best of a few draws: FLOPs are monotone in nearly every knob, corners too many to try."""
    found = {}
    for name, method in methods.items():
        if name in space.methods:
            starts = list(_starts(space, method, shape, plan))
            constraints = (all_constraints or {}).get(name, Constraints())
            found[name] = Feasibility(
                cheapest=_extreme(space, method, shape, plan, starts, lambda solved: solved.flops),
                dearest=_extreme(space, method, shape, plan, starts, lambda solved: -solved.flops),
                **_least(space, method, shape, plan, starts, constraints),
            )
    return found


def within(found: Feasibility, flops: int, limits: CostLimits) -> bool:
    """Whether the budget and every limit are reached; a latency that is not known yet is no reason against."""
    if found.cheapest is None or found.cheapest.flops > flops:
        return False
    if limits.params is not None and found.least_params is not None and found.least_params > limits.params:
        return False
    return limits.latency_ms is None or found.least_ms is None or found.least_ms <= limits.latency_ms


def unreachable(
    label: str, flops: int, limits: CostLimits, reached: Mapping[str, Feasibility], space: Space, narrowing: Sequence[str]
) -> str:
    """Why no method of the space comes to a budget, and how far each of them does; `narrowing` methods can take parameters away."""
    spans = ", ".join(
        f"{name} {format_flops(found.cheapest.flops)} to {format_flops(found.dearest.flops)}"
        for name, found in reached.items()
        if found.cheapest is not None and found.dearest is not None
    )
    if not any(found.cheapest is not None and found.cheapest.flops <= flops for found in reached.values()):
        return (
            f"budget {label} is {format_flops(flops)} multiply-accumulates, which nothing in the space {space.name!r} can reach; "
            f"it reaches {spans}"
        )
    least = [_least_in_words(name, found) for name, found in reached.items()]
    others = [name for name in narrowing if name not in reached]
    can = f"; {' and '.join(others)} can take parameters away" if limits.params is not None and others else ""
    return (
        f"{limits.flags}: nothing in the space {space.name!r} can reach this; the least is {', '.join(filter(None, least))}{can}"
    )


def _least_in_words(name: str, found: Feasibility) -> str:
    parts = [
        None if found.least_ms is None else f"{found.least_ms:.3g} ms",
        None if found.least_params is None else f"{format_params(found.least_params)} parameters",
    ]
    words = " and ".join(part for part in parts if part)
    return f"{name} {words}" if words else ""


def _least(
    space: Space, method: Method, shape: ViTShape, plan: Plan, starts: list[tuple[Solved, Knobs]], constraints: Constraints
) -> dict[str, Any]:
    """Of what the ceiling limits."""
    least: dict[str, Any] = {}
    if constraints.limits.params is not None:
        corner = _extreme(space, method, shape, plan, starts, lambda solved: predict_params(shape, solved.plan))
        least["least_params"] = corner and predict_params(shape, evaluate(method, shape, plan, corner.knobs).plan)
    if constraints.limits.latency_ms is not None and constraints.timer is not None:
        timer = constraints.timer
        corner = _extreme(space, method, shape, plan, starts, lambda solved: timer(solved.plan))
        least["least_ms"] = corner and timer(evaluate(method, shape, plan, corner.knobs).plan)
    return least


def _starts(space: Space, method: Method, shape: ViTShape, plan: Plan) -> Iterator[tuple[Solved, Knobs]]:
    for number in range(_STARTS):
        draw = space.sample(Uniform(f"reach:{number}"), {method.name: method}, shape, among=[method.name])
        solved = _evaluate_inside(space, method, shape, plan, draw.knobs)
        if solved is not None:
            yield solved, draw.knobs


def _extreme(
    space: Space, method: Method, shape: ViTShape, plan: Plan, starts: list[tuple[Solved, Knobs]], cost: _Cost
) -> CostRange | None:
    """Where `cost` is lowest."""
    best: tuple[Solved, Knobs] | None = None
    for start in sorted(starts, key=lambda start: cost(start[0]))[:_DESCENTS]:
        corner = start
        while cost((nearer := _sweep(space, method, shape, plan, corner, cost))[0]) != cost(corner[0]):
            corner = nearer
        if best is None or cost(corner[0]) < cost(best[0]):
            best = corner
    if best is None:
        return None
    return CostRange(flops=best[0].flops, knobs=method.repair(shape, best[1]))


def _sweep(
    space: Space, method: Method, shape: ViTShape, plan: Plan, corner: tuple[Solved, Knobs], cost: _Cost
) -> tuple[Solved, Knobs]:
    """Each knob in turn moved to where `cost` is lowest."""
    for name, knob in space.methods[method.name].items():
        for value in _values(knob, shape.depth):
            knobs = {**corner[1], name: value}
            solved = _evaluate_inside(space, method, shape, plan, knobs)
            if solved is not None and cost(solved) < cost(corner[0]):
                corner = solved, knobs
    return corner


def _values(knob: Knob, depth: int) -> list[Any]:
    """Where a corner may be; every block of a `layer`, because two that fall together may leave the space."""
    if not knob.searched:
        return []
    if knob.choices is not None:
        return list(knob.choices)
    low, high = bounds(knob, depth)
    return list(range(int(low), int(high) + 1)) if knob.kind == "layer" else [low, high]


def _evaluate_inside(space: Space, method: Method, shape: ViTShape, plan: Plan, knobs: Knobs) -> Solved | None:
    """`None` when the repaired knobs have left the space, or this model is not one for them."""
    try:
        solved = evaluate(method, shape, plan, _filled(space, method, shape, knobs))
    except UnsupportedModelError:
        return None
    return solved if space.contains(Draw(method=method.name, knobs=solved.knobs, training={}), shape) else None


def _filled(space: Space, method: Method, shape: ViTShape, knobs: Knobs) -> Knobs:
    """Knobs that an earlier move has made active get their default within the space, not the method's own."""
    full = dict(knobs)
    for name, knob in space.methods[method.name].items():
        if name not in full:
            full[name] = layer_index(knob.default, shape.depth) if knob.kind == "layer" else knob.default
    return full
