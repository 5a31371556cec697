"""`RecipeBuilder`: from a point of the search space to a recipe that keeps to its budget.

The solver (`methods.solver`) moves the point onto the budget before anything is trained, so that the model of every trial can be returned
for it. All trials at a budget then have nearly the same FLOPs, and accuracy is the only objective left there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Recipe, Step, Training
from autoslim.core.result import Target
from autoslim.core.shape import ViTShape
from autoslim.cost import LatencyTable, predict
from autoslim.errors import InfeasibleError, UnsupportedModelError
from autoslim.methods import Constraints
from autoslim.methods.base import Method
from autoslim.methods.solver import Solved, evaluate, solve
from autoslim.search.budget_allocation import Assignment
from autoslim.search.proposal import Proposal
from autoslim.search.space.space import Sample, Space, Suggest


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeBuilder:
    """`budgets` are multiply-accumulates by label; `limits` hold beside each of them. `training` has the settings that the space does
    not search. `timer` predicts the latency of a plan; without it a limit on latency is ignored.
    """

    space: Space
    shape: ViTShape
    methods: Mapping[str, Method]
    budgets: Mapping[str, int]
    training: Training
    seed: int
    class_query: bool = False
    bound: str = "max"
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    timer: LatencyTable | None = None

    @functools.cached_property
    def dense_plan(self) -> Plan:
        """The plan that every recipe starts from."""
        return Plan.dense(self.shape, class_query=self.class_query)

    def constraints(self, method: str) -> Constraints:
        timer = self.timer
        return Constraints(limits=self.limits, timer=None if timer is None else functools.partial(timer, recipe=method))

    def plan_of(self, recipe: Recipe) -> Plan:
        """The plan that the recipe's steps aim at, one after another."""
        plan = self.dense_plan
        for step in recipe.steps:
            plan = self.methods[step.method].expect(self.shape, plan, step.knobs)
        return plan

    def flops_of(self, recipe: Recipe) -> int:
        """Multiply-accumulates of the recipe's plan, before anything is trained."""
        return predict(self.shape, self.plan_of(recipe)).total

    def sample(self, suggest: Suggest, names: Sequence[str]) -> Sample:
        """A point of the space; `names` are the methods that it is chosen from."""
        return self.space.sample(suggest, {name: self.methods[name] for name in names}, self.shape)

    def build(self, number: int, assignment: Assignment, sample: Sample) -> Proposal:
        """The proposal of trial `number` from a point of the space; infeasible where the point cannot be solved within the space."""
        training = self.training.replace(**sample.training)
        budget = self.budgets.get(assignment.target, 0)
        try:
            solved = self._solve(assignment, sample)
            # A free trial is its own budget: there is nothing that it is solved onto.
            budget = solved.flops if assignment.target == Target.FREE else budget
            self._check_in_space(dataclasses.replace(sample, knobs=solved.knobs))
        except (InfeasibleError, UnsupportedModelError) as error:
            # Unsupported here: single knobs that do not fit every model, such as token counts that differ from image to image.
            recipe = self._recipe(assignment, sample.method, sample.knobs, budget, training)
            return Proposal(
                number=number, recipe=recipe, target=assignment.target, origin=assignment.origin, infeasible=str(error)
            )
        recipe = self._recipe(assignment, sample.method, solved.knobs, budget, training)
        return Proposal(
            number=number,
            recipe=recipe,
            target=assignment.target,
            origin=assignment.origin,
            plan=solved.plan,
            flops=solved.flops,
        )

    def _solve(self, assignment: Assignment, sample: Sample) -> Solved:
        method = self.methods[sample.method]
        if assignment.target == Target.FREE:
            return evaluate(method, self.shape, self.dense_plan, sample.knobs)
        return solve(
            method,
            self.shape,
            self.dense_plan,
            sample.knobs,
            self.budgets[assignment.target],
            ranges=self.space.methods[sample.method],
            constraints=self.constraints(sample.method),
        )

    def _check_in_space(self, repaired: Sample) -> None:
        """A method repairs knobs, such as two drops at the same block, and may move them out of the user's ranges."""
        if not self.space.contains(repaired, self.shape):
            raise InfeasibleError(f"{repaired.method}: the repaired knobs are outside the space {self.space.name!r}")

    def _recipe(self, assignment: Assignment, method: str, knobs: Knobs, budget: int, training: Training) -> Recipe:
        return Recipe(
            steps=(Step(method=method, knobs=knobs),),
            budget=budget,
            training=training,
            seed=self.seed,
            class_query=self.class_query,
            bound=self.bound,
            # A free trial extends the Pareto front; the limits hold for the models at the budgets only.
            limits=CostLimits() if assignment.target == Target.FREE else self.limits,
        )
