"""What a plan may cost beside its FLOPs, so that every solve, a method's last cut and the check of the finished model see the same."""

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
"""The predicted milliseconds of a batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
    """`limits` as they are held against a plan; without a `timer` nothing is known of its latency, and that limit is not looked at."""

    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    timer: Timer | None = None

    def fits(self, shape: ViTShape, plan: Plan) -> bool:
        return all(share <= 1 for share in self.shares(shape, plan).values())

    def shares(self, shape: ViTShape, plan: Plan) -> dict[str, float]:
        """How much of each limit the plan takes."""
        shares = {}
        if self.limits.params is not None:
            shares["params"] = predict_params(shape, plan) / self.limits.params
        if self.limits.latency_ms is not None and self.timer is not None:
            shares["latency"] = self.timer(plan) / self.limits.latency_ms
        return shares

    def describe(self, shape: ViTShape, plan: Plan) -> dict[str, str]:
        """What the plan takes of each limit."""
        describe = {}
        if self.limits.params is not None:
            describe["params"] = f"{format_params(predict_params(shape, plan))} parameters of {format_params(self.limits.params)}"
        if self.limits.latency_ms is not None and self.timer is not None:
            describe["latency"] = (
                f"{self.timer(plan):.4g} ms of {self.limits.latency_ms:g} ms at batch {self.limits.batch}, as predicted"
            )
        return describe

    def excess(self, shape: ViTShape, plan: Plan) -> str:
        """The limits that the plan does not keep, in words; empty where it keeps all."""
        describe = self.describe(shape, plan)
        over = [name for name, share in self.shares(shape, plan).items() if share > 1]
        return "too much: " + " and ".join(describe[name] for name in over) if over else ""


def binding(shape: ViTShape, plan: Plan, budget: int, constraints: Constraints) -> str:
    """Which limit the plan fills most: `flops`, `params` or `latency`."""
    shares = {"flops": predict(shape, plan).total / budget, **constraints.shares(shape, plan)}
    return max(shares, key=lambda name: shares[name])


def check_not_trivial(budget: Budget, constraints: Constraints, shape: ViTShape) -> None:
    """Raises BudgetError where nothing but limits is asked for, and the dense model is within them already."""
    dense, limits = Plan.dense(shape), constraints.limits
    unknown = limits.latency_ms is not None and constraints.timer is None
    if limits.given and budget == budget_of_limits(limits) and not unknown and constraints.fits(shape, dense):
        describe = " and ".join(constraints.describe(shape, dense).values())
        raise BudgetError(f"{limits.flags}: the dense model is within it already ({describe})")
