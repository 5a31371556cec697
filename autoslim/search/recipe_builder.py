"""`RecipeBuilder`: from a point of the search space to a recipe that keeps to its budget.

The solver (`methods.solver`, `methods.chain`) moves the point onto the budget before anything is trained, so that the model of every trial
can be returned for it. All trials at a budget then have nearly the same FLOPs, and accuracy is the only objective left there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import Target
from autoslim.core.shape import ViTShape
from autoslim.cost import LatencyTable, predict
from autoslim.errors import InfeasibleError, UnsupportedModelError
from autoslim.methods import Constraints
from autoslim.methods.base import Method
from autoslim.methods.chain import SolvedChain, chain_constraints, chain_targets, evaluate_chain, solve_chain, split_of_recipe
from autoslim.search.budget_allocation import Assignment
from autoslim.search.proposal import Proposal
from autoslim.search.space.space import Sample, Space, Suggest
from autoslim.search.start import Start


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeBuilder:
    """`budgets` are multiply-accumulates by label; `limits` hold beside each of them. `training` has the settings that the space does
    not search. `timer` predicts the latency of a plan; without it a limit on latency is ignored.

    Where there are several `starts`, `shape` is the first one's. Each has its own builder (`of`), whose recipes name it as their `model`;
    `asked_depth` is then the depth of the deepest (see `Space.sample`).
    """

    space: Space
    shape: ViTShape
    methods: Mapping[str, Method]
    budgets: Mapping[str, int]
    training: TrainingSettings
    seed: int
    class_query: bool = False
    bound: str = "max"
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    timer: LatencyTable | None = None
    starts: tuple[Start, ...] = ()
    model: str = ""
    asked_depth: int | None = None

    def of(self, model: str) -> RecipeBuilder:
        """The builder for recipes that start from the model with this label; '' is the first one."""
        return self._by_model[model or self.starts[0].label] if self.starts else self

    @functools.cached_property
    def _by_model(self) -> dict[str, RecipeBuilder]:
        deepest = max((start.shape.depth for start in self.starts), default=None)
        return {
            start.label: dataclasses.replace(self, shape=start.shape, starts=(), model=start.label, asked_depth=deepest)
            for start in self.starts
        }

    @functools.cached_property
    def dense_plan(self) -> Plan:
        """The plan that every recipe starts from."""
        return Plan.dense(self.shape, class_query=self.class_query)

    @functools.cached_property
    def _start_flops(self) -> int:
        return predict(self.shape, self.dense_plan).total

    def budget_of(self, assignment: Assignment) -> int | None:
        """The multiply-accumulates that the assignment's recipes are solved onto; None for a free trial."""
        return self.budgets.get(assignment.target) if assignment.flops is None else assignment.flops

    def constraints(self, unit: str) -> Constraints:
        """What recipes of a chain with this label are held to besides their budget."""
        timer = self.timer
        return Constraints(limits=self.limits, timer=None if timer is None else functools.partial(timer, recipe=unit))

    def plan_of(self, recipe: Recipe) -> Plan:
        """The plan that the recipe's steps aim at, one after another."""
        return self.of(recipe.model)._evaluated(recipe.steps).plan

    def flops_of(self, recipe: Recipe) -> int:
        """Multiply-accumulates of the recipe's plan, before anything is trained."""
        return self.of(recipe.model)._evaluated(recipe.steps).flops

    def split_of(self, recipe: Recipe) -> float | None:
        """As `chain.split_of_recipe`."""
        return split_of_recipe(recipe, self.methods, self.of(recipe.model).shape)

    def _evaluated(self, steps: Sequence[Step]) -> SolvedChain:
        return evaluate_chain(self.methods, self.shape, self.dense_plan, steps)

    def sample(self, suggest: Suggest, units: Sequence[str], models: Sequence[str] = ()) -> Sample:
        """A point of the space; `units` are the labels of the chains that it is chosen from, and `models` those of the starts.

        The model is asked for first, because ranges depend on it. With one model there is no parameter `model`.
        """
        label = suggest.suggest_categorical("model", models) if len(models) > 1 else "".join(models)
        own = self.of(label)
        sample = own.space.sample(suggest, own.methods, own.shape, units=units, asked_depth=own.asked_depth)
        return dataclasses.replace(sample, model=own.model)

    def build(self, number: int, assignment: Assignment, sample: Sample) -> Proposal:
        """The proposal of trial `number` from a point of the space; infeasible where the point cannot be solved within the space."""
        return self.of(sample.model)._build(number, assignment, sample)

    def _build(self, number: int, assignment: Assignment, sample: Sample) -> Proposal:
        training = self.training.replace(**sample.training)
        budget = self.budget_of(assignment) or 0
        try:
            # A sampler chooses the method and the model independently, and a method need not support all starts.
            for step in sample.steps if self.model else ():
                self.methods[step.method].check(self.shape)
            solved = self._solve(assignment, sample)
            # A free trial is its own budget: there is nothing that it is solved onto.
            budget = solved.flops if assignment.target == Target.FREE else budget
            self._check_in_space(dataclasses.replace(sample, steps=solved.steps))
        except (InfeasibleError, UnsupportedModelError) as error:
            # Unsupported here: single knobs that do not fit every model, such as token counts that differ from image to image.
            recipe = self._recipe(assignment, sample.steps, budget, training)
            return Proposal(
                number=number, recipe=recipe, target=assignment.target, origin=assignment.origin, infeasible=str(error)
            )
        recipe = self._recipe(assignment, solved.steps, budget, training)
        return Proposal(
            number=number,
            recipe=recipe,
            target=assignment.target,
            origin=assignment.origin,
            plan=solved.plan,
            flops=solved.flops,
        )

    def _solve(self, assignment: Assignment, sample: Sample) -> SolvedChain:
        if assignment.target != Target.FREE:
            budget = self.budget_of(assignment)
            assert budget is not None
            return self._solve_onto(sample, budget, self.constraints(sample.method))
        drawn = self._evaluated(sample.steps)
        if sample.split is None:
            return drawn
        # A free trial keeps the FLOPs that it was drawn with; how they are split is drawn, too.
        return self._solve_onto(sample, drawn.flops, Constraints())

    def _solve_onto(self, sample: Sample, budget: int, constraints: Constraints) -> SolvedChain:
        split, count = sample.split or 1.0, len(sample.steps)
        return solve_chain(
            self.methods,
            self.shape,
            self.dense_plan,
            sample.steps,
            chain_targets(self._start_flops, budget, split, count),
            ranges=self.space.methods,
            constraints=chain_constraints(constraints, self.dense_plan, [1.0] if count == 1 else [split, 1.0]),
        )

    def _check_in_space(self, repaired: Sample) -> None:
        """A method repairs knobs, such as two drops at the same block, and may move them out of the user's ranges."""
        if not self.space.contains(repaired, self.shape):
            raise InfeasibleError(f"{repaired.method}: the repaired knobs are outside the space {self.space.name!r}")

    def _recipe(self, assignment: Assignment, steps: tuple[Step, ...], budget: int, training: TrainingSettings) -> Recipe:
        return Recipe(
            steps=steps,
            budget=budget,
            training=training,
            seed=self.seed,
            class_query=self.class_query,
            bound=self.bound,
            # A free trial extends the Pareto front; the limits hold for the models at the budgets only.
            limits=CostLimits() if assignment.target == Target.FREE else self.limits,
            model=self.model,
        )
