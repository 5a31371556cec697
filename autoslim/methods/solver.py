"""One solver that puts any method's recipe onto a FLOPs budget and under whatever else limits it, before anything is trained.

A method names the knobs in which its FLOPs are monotone (`Knob.cost_sign`). The solver moves them together: pressure 0 is the dearest
end of every range, 1/2 the recipe as it was proposed, 1 the cheapest end. It bisects the pressure and then spends what is
left of the budget on single counts, dearest first, until nothing fits any more. Other limits (`Constraints`) are held all the way, so that
the one that binds decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from autoslim.core.budget import format_flops
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.cost.constraint_check import Constraints
from autoslim.cost.flops import predict
from autoslim.cost.params import predict_params
from autoslim.errors import InfeasibleError
from autoslim.methods.base import Method
from autoslim.methods.knob import Ranges

_BISECTIONS = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solved:
    knobs: Knobs
    plan: Plan
    flops: int


def evaluate(method: Method, shape: ViTShape, plan: Plan, knobs: Knobs) -> Solved:
    """What a recipe aims at as it stands."""
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
    """The dearest recipe of the family through `knobs` that stays within `budget` and `constraints`; `ranges` narrow the method's own.

    Raises:
        InfeasibleError: when even the cheapest end of the family is above one of them.
    """
    ranges = method.ranges if ranges is None else ranges
    constraints = Constraints() if constraints is None else constraints
    knobs = method.repair(shape, knobs)

    def fits(solved: Solved) -> bool:
        return solved.flops <= budget and constraints.fits(shape, solved.plan)

    cheapest = evaluate(method, shape, plan, _interpolate(knobs, ranges, 1.0))
    if cheapest.flops > budget:
        raise InfeasibleError(
            f"{method.name}: this recipe's cheapest form has {format_flops(cheapest.flops)}, above the budget of {format_flops(budget)}"
        )
    if excess := constraints.excess(shape, cheapest.plan):
        raise InfeasibleError(f"{method.name}: this recipe's cheapest form takes {excess}")
    best, low, high = cheapest, 0.0, 1.0
    dearest = evaluate(method, shape, plan, _interpolate(knobs, ranges, 0.0))
    if fits(dearest):
        return dearest
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = evaluate(method, shape, plan, _interpolate(knobs, ranges, middle))
        if fits(found):
            best, high = found, middle
        else:
            low = middle
    return _fill_budget(method, shape, plan, best, fits, ranges)


def narrows(method: Method, shape: ViTShape, plan: Plan) -> bool:
    """Whether the method can take parameters away from what `plan` leaves."""
    cheapest = evaluate(method, shape, plan, _interpolate(method.repair(shape, {}), method.ranges, 1.0))
    return predict_params(shape, cheapest.plan) < predict_params(shape, plan)


def _fill_budget(
    method: Method, shape: ViTShape, plan: Plan, best: Solved, fits: Callable[[Solved], bool], ranges: Ranges
) -> Solved:
    while True:
        steps = [evaluate(method, shape, plan, knobs) for knobs in method.costlier(shape, best.knobs, ranges)]
        fitting = [step for step in steps if step.flops > best.flops and fits(step)]
        if not fitting:
            return best
        best = max(fitting, key=lambda step: step.flops)


def _interpolate(knobs: Knobs, ranges: Ranges, pressure: float) -> Knobs:
    pressed = dict(knobs)
    for name, value in knobs.items():
        knob = ranges[name]
        if not knob.cost_sign:
            continue
        assert knob.kind == "float" and knob.low is not None and knob.high is not None
        dear, cheap = (knob.high, knob.low) if knob.cost_sign > 0 else (knob.low, knob.high)
        # A proposal may lie outside ranges that were narrowed after it was made.
        value = min(max(value, knob.low), knob.high)
        moved = dear + (value - dear) * 2 * pressure if pressure <= 0.5 else value + (cheap - value) * (2 * pressure - 1)
        # At the ends rounding may step over them.
        pressed[name] = min(max(moved, knob.low), knob.high)
    return pressed
