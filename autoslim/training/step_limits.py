"""`StepLimits`: what each step of a recipe may leave of the model, and its knobs for the model as the steps before have left it."""

from __future__ import annotations

import dataclasses

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step
from autoslim.core.shape import ViTShape
from autoslim.cost import predict, predict_params
from autoslim.methods import METHODS, Constraints, solve


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepLimits:
    """`constraints` are the recipe's. In each method `plan` is what the steps before `position` have left."""

    recipe: Recipe
    shape: ViTShape
    constraints: Constraints

    def solved(self, position: int, step: Step, plan: Plan) -> Step:
        """The step with knobs that meet the budget on the model as it is now.

        Only the last of several steps changes: what dropping a token saves depends on the widths that the earlier steps really left.
        """
        if position == 0 or not self._is_last(position):
            return step
        found = solve(METHODS[step.method], self.shape, plan, step.knobs, self.recipe.budget, constraints=self.constraints)
        return step.replace(knobs=found.knobs)

    def flops(self, position: int, step: Step, plan: Plan) -> int:
        """The FLOPs that the step may leave: the recipe's budget for the last one, those of its own plan for an earlier one."""
        return self.recipe.budget if self._is_last(position) else predict(self.shape, self._expected(step, plan)).total

    def beside_flops(self, position: int, step: Step, plan: Plan) -> Constraints:
        """The limits that the step keeps to. An earlier step keeps to its own plan's parameters: the steps after it may remove none."""
        if self._is_last(position):
            return self.constraints
        if self.recipe.limits.params is None:
            return Constraints()
        return Constraints(limits=CostLimits(params=predict_params(self.shape, self._expected(step, plan))))

    def _is_last(self, position: int) -> bool:
        return position == len(self.recipe.steps) - 1

    def _expected(self, step: Step, plan: Plan) -> Plan:
        return METHODS[step.method].expect(self.shape, plan, step.knobs)
