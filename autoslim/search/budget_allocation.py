"""Which budget a trial is for: decided by its number alone, so that a search that is resumed or runs in parallel deals alike.

1. One control for each budget: drawn blindly, methods in turn. What the search is worth is measured against them.
2. The methods that no control has had, once each, free and for the budgets in turn. What a sampler learns of a method at one budget holds
   at the others, so that no method is tried under all of them first: that would be most of a short search.
3. The budgets in turn, and every third a free trial, which keeps the FLOPs it was drawn with: without those the front would have points
   at the budgets only. In the benchmark a third of free trials finds a larger hypervolume than a quarter, and models at the budgets
   within 0.15 points of those (`docs/benchmarks/search-race.md`): what is learnt between the budgets holds at them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from autoslim.core.result import Origin, Target

_PERIOD = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """`target` is a budget's label or `Target.FREE`; `origin` is CONTROL or SAMPLER; `among` are methods."""

    target: str
    origin: Origin
    among: tuple[str, ...]


def assign(number: int, feasible_methods: Mapping[str, Sequence[str]]) -> Assignment:
    """`feasible_methods` says which methods can be drawn for each target, budgets first and `free` among them."""
    opening = _opening(feasible_methods)
    if number < len(opening):
        return opening[number]
    budgets = [target for target in feasible_methods if target != Target.FREE]
    turn = number - len(opening)
    if not budgets:
        return Assignment(target=Target.FREE, origin=Origin.SAMPLER, among=tuple(feasible_methods[Target.FREE]))
    cycles, place = divmod(turn, _PERIOD)
    if place == _PERIOD - 1:
        return Assignment(target=Target.FREE, origin=Origin.SAMPLER, among=tuple(feasible_methods[Target.FREE]))
    target = budgets[(cycles * (_PERIOD - 1) + place) % len(budgets)]
    return Assignment(target=target, origin=Origin.SAMPLER, among=tuple(feasible_methods[target]))


def _opening(feasible_methods: Mapping[str, Sequence[str]]) -> list[Assignment]:
    targets = [target for target in feasible_methods if target != Target.FREE] or [Target.FREE]
    used: dict[str, int] = {}
    controls = []
    for target in targets:
        method = min(feasible_methods[target], key=lambda name: used.get(name, 0))
        used[method] = used.get(method, 0) + 1
        controls.append(Assignment(target=target, origin=Origin.CONTROL, among=(method,)))
    missing = [method for method in feasible_methods[Target.FREE] if method not in used]
    turns = [Target.FREE, *targets] if targets != [Target.FREE] else targets
    rest = []
    for place, method in enumerate(missing):
        target = turns[place % len(turns)]
        rest.append(
            Assignment(
                target=target if method in feasible_methods[target] else Target.FREE, origin=Origin.SAMPLER, among=(method,)
            )
        )
    return controls + rest
