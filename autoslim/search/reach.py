"""The cheapest and the dearest recipe of a space, per method, before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from autoslim.errors import UnsupportedModelError
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.methods.knob import Knob, layer_index
from autoslim.methods.solver import Solved, evaluate
from autoslim.plan import Plan
from autoslim.recipe import Knobs
from autoslim.record import Record
from autoslim.search.space import Draw, Space, Uniform, bounds
from autoslim.shape import ViTShape

_STARTS = 24
_DESCENTS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corner(Record):
    flops: int
    knobs: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reach(Record):
    """`None` where the space holds no recipe that the method leaves inside it."""

    cheapest: Corner | None
    dearest: Corner | None


def reach(space: Space, shape: ViTShape, plan: Plan, methods: Mapping[str, Method] = METHODS) -> dict[str, Reach]:
    """By coordinate descent from the best of a few draws: FLOPs are monotone in nearly every knob, corners too many to try."""
    found = {}
    for name in methods:
        if name in space.methods:
            starts = list(_starts(space, methods[name], shape, plan))
            found[name] = Reach(
                cheapest=_extreme(space, methods[name], shape, plan, starts, sign=1),
                dearest=_extreme(space, methods[name], shape, plan, starts, sign=-1),
            )
    return found


def _starts(space: Space, method: Method, shape: ViTShape, plan: Plan) -> Iterator[tuple[int, Knobs]]:
    for number in range(_STARTS):
        draw = space.sample(Uniform(f"reach:{number}"), {method.name: method}, shape, among=[method.name])
        solved = _evaluate_inside(space, method, shape, plan, draw.knobs)
        if solved is not None:
            yield solved.flops, draw.knobs


def _extreme(
    space: Space, method: Method, shape: ViTShape, plan: Plan, starts: list[tuple[int, Knobs]], *, sign: int
) -> Corner | None:
    best: Corner | None = None
    for flops, knobs in sorted(starts, key=lambda start: sign * start[0])[:_DESCENTS]:
        corner = Corner(flops=flops, knobs=knobs)
        while (nearer := _sweep(space, method, shape, plan, corner, sign)).flops != corner.flops:
            corner = nearer
        if best is None or sign * corner.flops < sign * best.flops:
            best = corner
    if best is None:
        return None
    return best.replace(knobs=method.repair(shape, best.knobs))


def _sweep(space: Space, method: Method, shape: ViTShape, plan: Plan, corner: Corner, sign: int) -> Corner:
    """Each knob in turn moved to where FLOPs are lowest (or highest, `sign` -1)."""
    for name, knob in space.methods[method.name].items():
        for value in _values(knob, shape.depth):
            solved = _evaluate_inside(space, method, shape, plan, {**corner.knobs, name: value})
            if solved is not None and sign * solved.flops < sign * corner.flops:
                corner = Corner(flops=solved.flops, knobs={**corner.knobs, name: value})
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
