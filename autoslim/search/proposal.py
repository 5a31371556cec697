"""`Proposal`: a recipe for one trial, with what is known about it before it is trained."""

from __future__ import annotations

import dataclasses

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.core.record import Record
from autoslim.core.result import Origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal(Record):
    """`target` is a budget's label or `free`; `flops` are the plan's multiply-accumulates.

    Where no model can be built from the recipe, `plan` and `flops` are None and `infeasible` gives the reason.
    """

    number: int
    recipe: Recipe
    target: str
    origin: Origin
    plan: Plan | None = None
    flops: int | None = None
    infeasible: str | None = None
