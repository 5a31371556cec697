"""Chains: methods that slim a model one after another, solved together onto one budget.

A step may leave a share of the FLOPs of the step before it. With the start's FLOPs F and the budget B, a step that ends at the share s of
log(F / B) may leave F (B / F)^s; the last one ends at 1. A step is solved on the plan that the earlier ones leave, so that the chain's
FLOPs are those of the last step's plan.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step
from autoslim.core.shape import ViTShape
from autoslim.cost.constraint_check import Constraints
from autoslim.cost.flops import predict
from autoslim.errors import InfeasibleError
from autoslim.methods.base import Method
from autoslim.methods.knob import Ranges
from autoslim.methods.solver import Solved, cheapest_form, evaluate, narrows, solve

LAST_MARGIN = 0.05
"""Share of the budget by which the last step must be able to go below it. It is solved again when the step before it has pruned the model,
which may have left other widths than the solver assumed, and still has to reach the budget then."""

REST_SHARE = 0.1
"""Share of the optimizer steps left for which the model is fine-tuned in front of a step that needs it (`Method.needs_rest`), unless the
recipe has a `rest_share`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolvedChain:
    """Steps with repaired knobs, the plan that they aim at together and its multiply-accumulates per image."""

    steps: tuple[Step, ...]
    plan: Plan
    flops: int


def chain_label(names: Sequence[str]) -> str:
    """The chain's name, as in `Recipe.method`."""
    return "+".join(names)


def chain_of(label: str) -> tuple[str, ...]:
    """The inverse of `chain_label`."""
    return tuple(label.split("+"))


def evaluate_chain(methods: Mapping[str, Method], shape: ViTShape, plan: Plan, steps: Sequence[Step]) -> SolvedChain:
    """The plan that the steps aim at, unsolved; `plan` is what they start from."""
    done: list[Step] = []
    flops = predict(shape, plan).total
    for step in steps:
        found = evaluate(methods[step.method], shape, plan, step.knobs)
        plan, flops = found.plan, found.flops
        done.append(step.replace(knobs=found.knobs))
    return SolvedChain(steps=tuple(done), plan=plan, flops=flops)


def solve_chain(
    methods: Mapping[str, Method],
    shape: ViTShape,
    plan: Plan,
    steps: Sequence[Step],
    targets: Sequence[int],
    *,
    ranges: Mapping[str, Ranges] | None = None,
    constraints: Sequence[Constraints] | None = None,
) -> SolvedChain:
    """The steps, each solved onto its target in multiply-accumulates (`chain_targets`); `ranges` may narrow the methods' own.

    Raises:
        InfeasibleError: when a step cannot be solved onto its target, or the last one could hardly go below it.
    """
    solved = list(solve_each(methods, shape, plan, steps, targets, ranges=ranges, constraints=constraints))
    if len(steps) > 1:
        # What the step leaves open, such as its blocks, is as the solver has chosen it for this budget.
        last = steps[-1].replace(knobs={**solved[-1].knobs, **steps[-1].knobs})
        _check_room(methods[last.method], shape, solved[-2].plan, last, targets[-1], ranges)
    done = tuple(step.replace(knobs=found.knobs) for step, found in zip(steps, solved, strict=True))
    return SolvedChain(steps=done, plan=solved[-1].plan, flops=solved[-1].flops)


def solve_each(
    methods: Mapping[str, Method],
    shape: ViTShape,
    plan: Plan,
    steps: Sequence[Step],
    targets: Sequence[int],
    *,
    ranges: Mapping[str, Ranges] | None = None,
    constraints: Sequence[Constraints] | None = None,
) -> Iterator[Solved]:
    """As `solve_chain`, step by step, without its check of the last one."""
    for position, (step, target) in enumerate(zip(steps, targets, strict=True)):
        method = methods[step.method]
        own = Constraints() if constraints is None else constraints[position]
        if position < len(steps) - 1 and not narrows(method, shape, plan):
            # Parameters that it cannot take are left to the steps behind it.
            own = dataclasses.replace(own, limits=own.limits.replace(params=None))
        found = solve(
            method, shape, plan, step.knobs, target, ranges=None if ranges is None else ranges[step.method], constraints=own
        )
        yield found
        plan = found.plan


def _check_room(
    method: Method, shape: ViTShape, plan: Plan, step: Step, budget: int, ranges: Mapping[str, Ranges] | None
) -> None:
    cheapest = cheapest_form(method, shape, plan, step.knobs, None if ranges is None else ranges[step.method])
    if cheapest.flops > (1 - LAST_MARGIN) * budget:
        raise InfeasibleError(
            f"{method.name}: as the last of several steps its cheapest form has {cheapest.flops} multiply-accumulates; "
            f"allowed: {LAST_MARGIN:.0%} below the budget of {budget}"
        )


def chain_targets(start: int, budget: int, split: float, count: int) -> list[int]:
    """What each of `count` steps may leave of `start` multiply-accumulates: the first bears the share `split` of log(start / budget), the
    others bear the rest evenly."""
    if count == 1:
        return [budget]
    ends = [split + (1 - split) * number / (count - 1) for number in range(count - 1)]
    # A budget above the start asks for nothing.
    ratio = min(1.0, budget / start)
    return [*(round(start * ratio**end) for end in ends), budget]


def split_of(start: int, first: int, last: int) -> float:
    """The share of log(start / last) that a first step with `first` multiply-accumulates bears; the inverse of `chain_targets`."""
    return math.log(start / first) / math.log(start / last) if last < start else 1.0


def split_of_recipe(recipe: Recipe, methods: Mapping[str, Method], shape: ViTShape) -> float | None:
    """The share of log(dense / budget) that the first of several steps bears; None for a method alone."""
    if len(recipe.steps) == 1:
        return None
    start = Plan.dense(shape, class_query=recipe.class_query)
    first, whole = (evaluate_chain(methods, shape, start, steps) for steps in (recipe.steps[:1], recipe.steps))
    return split_of(predict(shape, start).total, first.flops, whole.flops)


def chain_constraints(constraints: Constraints, start: Plan, ends: Sequence[float | None]) -> list[Constraints]:
    """What each step is held to besides its target: the parameters' limit, and of the latency the share in `ends` of its logarithm.

    A step whose share is None keeps to no latency. The last share is 1.
    """
    limits, timer = constraints.limits, constraints.timer
    if limits.latency_ms is None or timer is None:
        return [constraints] * len(ends)
    whole = timer(start)
    factor = min(1.0, limits.latency_ms / whole)
    given = [None if end is None else limits.latency_ms if end == 1 else whole * factor**end for end in ends]
    return [dataclasses.replace(constraints, limits=limits.replace(latency_ms=milliseconds)) for milliseconds in given]
