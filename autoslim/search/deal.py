"""Which budget a trial is for: decided by its number alone, so that a search that is resumed or runs in parallel deals alike.

1. One control for each budget: drawn blindly, methods in turn. What the search is worth is measured against them.
2. The method x budget pairs that no control has had: a short search still sees every method under every budget.
3. The budgets in turn, and every so often a free trial, which keeps the FLOPs it was drawn with: without those the front would
   have points at the budgets only. They take one trial in `len(budgets) + 1`, at most a quarter: for a budget, a trial that was
   solved onto it finds better models than one that was not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

FREE = "free"
_RAREST_FREE = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deal:
    """`target` is a budget's label or `free`; `origin` is `random` for a control, else `sampler`; `among` are methods."""

    target: str
    origin: str
    among: tuple[str, ...]


def deal(number: int, able: Mapping[str, Sequence[str]]) -> Deal:
    """`able` says which methods can be drawn for each target, budgets first and `free` among them."""
    opening = _opening(able)
    if number < len(opening):
        return opening[number]
    budgets = [target for target in able if target != FREE]
    turn = number - len(opening)
    if not budgets:
        return Deal(target=FREE, origin="sampler", among=tuple(able[FREE]))
    period = max(len(budgets) + 1, _RAREST_FREE)
    cycles, place = divmod(turn, period)
    if place == period - 1:
        return Deal(target=FREE, origin="sampler", among=tuple(able[FREE]))
    target = budgets[(cycles * (period - 1) + place) % len(budgets)]
    return Deal(target=target, origin="sampler", among=tuple(able[target]))


def _opening(able: Mapping[str, Sequence[str]]) -> list[Deal]:
    targets = [target for target in able if target != FREE] or [FREE]
    used: dict[str, int] = {}
    controls = []
    for target in targets:
        method = min(able[target], key=lambda name: used.get(name, 0))
        used[method] = used.get(method, 0) + 1
        controls.append(Deal(target=target, origin="random", among=(method,)))
    had = {(control.target, control.among[0]) for control in controls}
    rest = [
        Deal(target=target, origin="sampler", among=(method,))
        for target in targets
        for method in able[target]
        if (target, method) not in had
    ]
    return controls + rest
