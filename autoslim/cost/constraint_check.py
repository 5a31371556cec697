"""The limits on a plan besides its FLOPs: one check for the solver, for a method's pruning and for the finished model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits, budget_of_limits, format_params
from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.cost.params import predict_params
from autoslim.errors import BudgetError

Timer = Callable[[Plan], float]
"""Predicts a plan's milliseconds per batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
    """`limits` with what is needed to check a plan. Without a `timer` its latency is unknown, and that limit is ignored."""

    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    timer: Timer | None = None

    def fits(self, shape: ViTShape, plan: Plan) -> bool:
        """Whether the plan keeps to every limit."""
        return all(share <= 1 for share in self.shares(shape, plan).values())

    def shares(self, shape: ViTShape, plan: Plan) -> dict[str, float]:
        """The plan's cost over each limit, by `params` and `latency`; above 1 the limit is broken."""
        shares = {}
        if self.limits.params is not None:
            shares["params"] = predict_params(shape, plan) / self.limits.params
        if self.limits.latency_ms is not None and self.timer is not None:
            shares["latency"] = self.timer(plan) / self.limits.latency_ms
        return shares

    def describe(self, shape: ViTShape, plan: Plan) -> dict[str, str]:
        """The plan's cost beside each limit, as text."""
        texts = {}
        if self.limits.params is not None:
            texts["params"] = f"{format_params(predict_params(shape, plan))} parameters of {format_params(self.limits.params)}"
        if self.limits.latency_ms is not None and self.timer is not None:
            texts["latency"] = (
                f"{self.timer(plan):.4g} ms of {self.limits.latency_ms:g} ms at batch {self.limits.batch}, as predicted"
            )
        return texts

    def excess(self, shape: ViTShape, plan: Plan) -> str:
        """The limits that the plan breaks, as text; empty where it keeps all."""
        texts = self.describe(shape, plan)
        over = [name for name, share in self.shares(shape, plan).items() if share > 1]
        return "too much: " + " and ".join(texts[name] for name in over) if over else ""


def binding(shape: ViTShape, plan: Plan, budget: int, constraints: Constraints) -> str:
    """The limit that the plan uses the largest share of: `flops`, `params` or `latency`."""
    shares = {"flops": predict(shape, plan).total / budget, **constraints.shares(shape, plan)}
    return max(shares, key=lambda name: shares[name])


def check_not_trivial(budget: Budget, constraints: Constraints, shape: ViTShape) -> None:
    """Raises BudgetError when limits without a FLOPs budget are requested that the dense model keeps already."""
    dense, limits = Plan.dense(shape), constraints.limits
    # Without a timer the latency limit is ignored by `fits`, so that fitting says nothing about it.
    unknown = limits.latency_ms is not None and constraints.timer is None
    if limits.given and budget == budget_of_limits(limits) and not unknown and constraints.fits(shape, dense):
        costs = " and ".join(constraints.describe(shape, dense).values())
        raise BudgetError(f"{limits.flags}: the dense model is within it already ({costs})")
