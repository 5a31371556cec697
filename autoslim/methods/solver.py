"""One solver that puts any method's recipe onto a FLOPs budget, and under all other limits, before anything is trained.

A method names the knobs in which its FLOPs are monotone (`Knob.cost_sign`). The solver moves all of them together along a line: at
pressure 0 every such knob is at the expensive end of its range, at 1/2 where the recipe proposed it, at 1 at the cheap end. It
bisects the pressure, and spends what is left of the budget on single counts (`Method.costlier`). All other limits (`Constraints`) are
checked at every step, so that whichever limit binds decides.

Blocks are not moved, unless the recipe leaves them to the defaults: those come forward, all by the same factor, until the budget is
within reach (`with_default_layers`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from autoslim.core.budget import format_flops
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.cost.constraint_check import Constraints
from autoslim.cost.flops import predict
from autoslim.cost.params import predict_params
from autoslim.errors import InfeasibleError, UnsupportedModelError
from autoslim.methods.base import Method
from autoslim.methods.knob import Knob, Ranges, layer_index

_BISECTIONS = 40
"""2^-40 of a knob's range is far below the share of one token or one width unit."""

_WITHIN_REACH = 0.75
"""The pressure at which a recipe with default blocks must fit: half-way from its proposal to the cheapest form. At 1 nearly all tokens
would have to go at one place, where going earlier keeps more of them."""

_FORWARD = tuple(1 - number / 24 for number in range(24))
"""Factors on the default blocks; the smallest one moves the last block of 24 to the first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solved:
    """Repaired knobs, the plan that they aim at and its multiply-accumulates per image."""

    knobs: Knobs
    plan: Plan
    flops: int


def evaluate(method: Method, shape: ViTShape, plan: Plan, knobs: Knobs) -> Solved:
    """The plan that knobs aim at, unsolved; `plan` is what earlier steps have left."""
    repaired = method.repair(shape, knobs)
    expected = method.expect(shape, plan, repaired)
    return Solved(knobs=repaired, plan=expected, flops=predict(shape, expected).total)


def solve(
    method: Method,
    shape: ViTShape,
    plan: Plan,
    knobs: Knobs,
    budget: int,
    *,
    ranges: Ranges | None = None,
    constraints: Constraints | None = None,
) -> Solved:
    """The costliest recipe on the line through `knobs` that keeps to `budget` (multiply-accumulates per image) and `constraints`.

    `ranges` may narrow the method's own.

    Raises:
        InfeasibleError: when even the cheap end of the line is above one of the limits.
    """
    ranges = method.ranges if ranges is None else ranges
    constraints = Constraints() if constraints is None else constraints
    knobs = method.repair(shape, with_default_layers(method, shape, plan, knobs, budget, ranges=ranges, constraints=constraints))

    def at(pressure: float) -> Solved:
        return evaluate(method, shape, plan, _interpolate(knobs, ranges, pressure))

    def fits(solved: Solved) -> bool:
        return solved.flops <= budget and constraints.fits(shape, solved.plan)

    # 1. Both ends of the line: nothing fits, or everything does.
    cheapest = at(1.0)
    _check_feasible(method, shape, cheapest, budget, constraints)
    costliest = at(0.0)
    if fits(costliest):
        return costliest
    # 2. In between FLOPs fall with the pressure, so that the lowest pressure that fits is found by bisection.
    best = _bisect(at, fits, cheapest)
    # 3. One step of the pressure moves all knobs at once; single counts use what that leaves of the budget.
    return _fill_budget(method, shape, plan, best, fits, ranges)


def with_default_layers(
    method: Method,
    shape: ViTShape,
    plan: Plan,
    knobs: Knobs,
    budget: int,
    *,
    ranges: Ranges,
    constraints: Constraints,
) -> Knobs:
    """`knobs` with a block for each `layer` that they leave out: the default, as far forward as the limits need and `ranges` allow.

    Without such knobs it returns `knobs` themselves.
    """
    layers = [name for name, knob in method.ranges.items() if knob.kind == "layer" and name not in knobs]
    if not layers:
        return knobs
    for factor in _FORWARD:
        moved = {**knobs, **{name: _forward(ranges[name], factor, shape.depth) for name in layers}}
        found = evaluate(method, shape, plan, _interpolate(method.repair(shape, moved), ranges, _WITHIN_REACH))
        if found.flops <= budget and constraints.fits(shape, found.plan):
            return moved
    # Nothing reaches the limits with room to spare. At the front it may still be possible; where it is not, the solver says so.
    return moved


def _forward(knob: Knob, factor: float, depth: int) -> int:
    """The block at `factor` times the default share of the depth, within the range."""
    assert knob.low is not None and knob.high is not None
    low, high = (layer_index(end, depth) for end in (knob.low, knob.high))
    return min(max(layer_index(factor * knob.default, depth), low), high)


def cheapest_form(method: Method, shape: ViTShape, plan: Plan, knobs: Knobs, ranges: Ranges | None = None) -> Solved:
    """The cheap end of the line through `knobs`; `ranges` may narrow the method's own."""
    pressed = _interpolate(method.repair(shape, knobs), method.ranges if ranges is None else ranges, 1.0)
    return evaluate(method, shape, plan, pressed)


def cheaper_knobs(method: Method, shape: ViTShape, plan: Plan, knobs: Knobs) -> tuple[Knobs, int]:
    """Knobs that the solver leaves alone, with other values than in `knobs`, under which the cheapest form costs less, and what it costs.

    Without such knobs the first is empty.
    """
    changed: Knobs = {}
    least = cheapest_form(method, shape, plan, knobs).flops
    for name, knob in method.ranges.items():
        if knob.cost_sign or not knob.searched:
            continue
        # Greedy, one knob after another: it tells the user a way down, not the lowest cost of all.
        for value in _other_values(knob, shape):
            try:
                found = cheapest_form(method, shape, plan, {**knobs, **changed, name: value}).flops
            except UnsupportedModelError:
                continue
            if found < least:
                changed, least = {**changed, name: value}, found
    return changed, least


def _other_values(knob: Knob, shape: ViTShape) -> list[Any]:
    if knob.kind == "choice":
        return list(knob.choices or ())
    if knob.kind == "layer":
        return list(range(1, shape.depth))
    assert knob.low is not None and knob.high is not None
    return [knob.low, knob.high] if knob.kind == "float" else [int(knob.low), int(knob.high)]


def narrows(method: Method, shape: ViTShape, plan: Plan) -> bool:
    """Whether the method can remove parameters from what `plan` leaves."""
    cheapest = cheapest_form(method, shape, plan, {})
    return predict_params(shape, cheapest.plan) < predict_params(shape, plan)


def _check_feasible(method: Method, shape: ViTShape, cheapest: Solved, budget: int, constraints: Constraints) -> None:
    if cheapest.flops > budget:
        raise InfeasibleError(
            f"{method.name}: this recipe's cheapest form has {format_flops(cheapest.flops)}, above the budget of {format_flops(budget)}"
        )
    if excess := constraints.excess(shape, cheapest.plan):
        raise InfeasibleError(f"{method.name}: this recipe's cheapest form takes {excess}")


def _bisect(at: Callable[[float], Solved], fits: Callable[[Solved], bool], cheapest: Solved) -> Solved:
    """The recipe at the lowest pressure that fits; pressure 0 does not, pressure 1 (`cheapest`) does."""
    best, low, high = cheapest, 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = at(middle)
        if fits(found):
            best, high = found, middle
        else:
            low = middle
    return best


def _fill_budget(
    method: Method, shape: ViTShape, plan: Plan, best: Solved, fits: Callable[[Solved], bool], ranges: Ranges
) -> Solved:
    """`best` with single counts added until none fits any more."""
    while True:
        steps = [evaluate(method, shape, plan, knobs) for knobs in method.costlier(shape, best.knobs, ranges)]
        # A step that repairs to the same recipe, or to a cheaper one, would never end the loop.
        fitting = [step for step in steps if step.flops > best.flops and fits(step)]
        if not fitting:
            return best
        # The largest step that fits leaves the least unused.
        best = max(fitting, key=lambda step: step.flops)


def _interpolate(knobs: Knobs, ranges: Ranges, pressure: float) -> Knobs:
    """The knobs at a pressure from 0 to 1: those with a cost sign move, the others stay."""
    pressed = dict(knobs)
    for name, value in knobs.items():
        knob = ranges[name]
        if not knob.cost_sign:
            continue
        assert knob.kind == "float" and knob.low is not None and knob.high is not None
        costly, cheap = (knob.high, knob.low) if knob.cost_sign > 0 else (knob.low, knob.high)
        # A proposal may be outside of ranges that were narrowed after it was made.
        value = min(max(value, knob.low), knob.high)
        # Two straight pieces that meet at the proposal, so that its proportions between the knobs are kept near it.
        moved = costly + (value - costly) * 2 * pressure if pressure <= 0.5 else value + (cheap - value) * (2 * pressure - 1)
        # Rounding may leave the range at its ends.
        pressed[name] = min(max(moved, knob.low), knob.high)
    return pressed
