"""`Start`: one of the dense models of a search, as far as recipes depend on it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from autoslim.core.budget import Budget, format_flops
from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.errors import BudgetError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """`label` is that of `SearchJob.starts`, by which a recipe names its model."""

    label: str
    shape: ViTShape

    @functools.cached_property
    def dense_flops(self) -> int:
        return predict(self.shape, Plan.dense(self.shape)).total

    def is_above(self, budget: int) -> bool:
        """Whether its dense model is above a budget of multiply-accumulates. One that is within it has nothing to be slimmed for."""
        return self.dense_flops >= budget


def starts_of(shapes: Mapping[str, ViTShape]) -> tuple[Start, ...]:
    """The starts of a search by the labels of `SearchJob.starts`; none for a search with one model, whose label is ''."""
    return tuple(Start(label=label, shape=shape) for label, shape in shapes.items() if label)


def resolve_budget(budget: Budget, dense_flops: int, starts: Sequence[Start]) -> int:
    """The budget in multiply-accumulates; `dense_flops` are the first dense model's, and `starts` all of several.

    Raises:
        BudgetError: when every dense model is within the budget already.
    """
    if not starts:
        return budget.resolve(dense_flops)
    flops = budget.flops_of(dense_flops)
    if not any(start.is_above(flops) for start in starts):
        found = ", ".join(f"{start.label} {format_flops(start.dense_flops)}" for start in starts)
        raise BudgetError(f"budget {budget.label}: every dense model is within it already: {found} multiply-accumulates")
    return flops
