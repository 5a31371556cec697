"""`Proposer`: the next recipe, as a pure function of the job's seed, the trial's number and the results so far.

After a crash the same number with the same history gives the same recipe: what is kept between proposals (a forest, solved draws)
would be made alike again.

A proposal for a budget is drawn, then solved onto the budget, so that every trial's model can be returned (`methods.solver`).
Accuracy is then the only question left, and a single-objective study answers it (`study.accuracy_at_budgets`). A free trial keeps
the FLOPs it was drawn with, and comes from a study of two objectives, accuracy up and FLOPs down. `assign` says which trial is
for what.

Samplers are `forest`, `tpe`, `nsga2`, `nsga3`, `gp` and `random`. A forest (`learner`) looks for the draw that promises most gain, at a
budget or of the front's area; it learns across methods and budgets, and from trials that were stopped, too. The others are Optuna's
(`samplers`). A genetic sampler's generations live in its study; they follow from the order of the complete trials, so that a study made
anew has the same. It and the Gaussian process see only what all trials have in common; for them every trial has the knobs of all
methods (`study.flat_replay`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

from autoslim.core.constraints import CostLimits
from autoslim.core.job import SAMPLERS
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Recipe, Step, Training
from autoslim.core.record import Record
from autoslim.core.result import Origin, Target, TrialResult
from autoslim.core.shape import ViTShape
from autoslim.cost import LatencyTable, predict
from autoslim.errors import BudgetError, InfeasibleError, RequestError, SpaceError, UnsupportedModelError
from autoslim.methods import METHODS, Constraints, narrowing
from autoslim.methods.base import Method
from autoslim.methods.solver import evaluate, solve
from autoslim.search.budget_allocation import Assignment, assign
from autoslim.search.feasibility import Feasibility, feasibility, unreachable, within
from autoslim.search.samplers.candidates import SERVES, near_draws, pool_draws
from autoslim.search.samplers.features import Encoder, Vector
from autoslim.search.samplers.forest import ForestSampler
from autoslim.search.samplers.optuna_samplers import FLAT, make_sampler
from autoslim.search.samplers.optuna_study import (
    Replay,
    accuracy_and_flops,
    accuracy_at_budgets,
    as_trials,
    build_study,
    flat_replay,
    replay,
)
from autoslim.search.space.space import Draw, Space, Suggest, Uniform

DRAWS = 16
"""How often a proposal is drawn before it is given back as infeasible, or as a duplicate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal(Record):
    """`target` is a budget's label or `free`. Without a plan the recipe is not to be trained; `infeasible` says why."""

    number: int
    recipe: Recipe
    target: str
    origin: Origin
    plan: Plan | None = None
    flops: int | None = None
    infeasible: str | None = None


Candidate = tuple[Proposal, Vector]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposer:
    """`budgets` are multiply-accumulates by label, `limits` hold beside each of them; `training` is what the space does not say otherwise.

    `earlier` are trials of earlier searches that could have been this one's, under numbers below 0; they are history to every proposal.
    `timer` predicts the latency of a plan; without it a limit on latency is not looked at.

    Raises:
        RequestError: for a sampler that there is not.
        SpaceError: for a space stored by another version, or without a single recipe.
        UnsupportedModelError: when no method of the space can slim the model.
        BudgetError: when no method of the space reaches a budget.
    """

    space: Space
    shape: ViTShape
    budgets: dict[str, int]
    training: Training
    seed: int
    sampler: str = "forest"
    class_query: bool = False
    bound: str = "max"
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    timer: LatencyTable | None = None
    earlier: tuple[TrialResult, ...] = ()
    methods: Mapping[str, Method] = dataclasses.field(default_factory=lambda: METHODS)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise RequestError(f"there is no sampler {self.sampler!r}; allowed: {', '.join(SAMPLERS)}")
        if Target.FREE in self.budgets:
            raise RequestError(f"a budget cannot be called {Target.FREE!r}")
        for name, ranges in self.space.methods.items():
            if name not in self.methods or ranges.keys() != self.methods[name].ranges.keys():
                raise SpaceError(
                    f"{self.space.name}: methods.{name} is not of this version of autoslim; read the space's file again"
                )
        if not self.feasibility:
            raise UnsupportedModelError("; ".join(self.left_out.values()))
        if not self.feasible_methods[Target.FREE]:
            raise SpaceError(f"{self.space.name}: no recipe is inside these ranges once its method has put it right; widen them")
        for label, flops in self.budgets.items():
            if not self.feasible_methods[label]:
                raise BudgetError(unreachable(label, flops, self.limits, self.feasibility, self.space, narrowing(self.shape)))

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Methods of the space that cannot slim this model, and why."""
        reasons = {}
        for name in self.space.methods:
            try:
                self.methods[name].check(self.shape)
            except UnsupportedModelError as error:
                reasons[name] = str(error)
        return reasons

    @functools.cached_property
    def feasibility(self) -> dict[str, Feasibility]:
        usable = {name: method for name, method in self.methods.items() if name not in self.left_out}
        return feasibility(self.space, self.shape, self.start, usable, {name: self.constraints(name) for name in usable})

    def constraints(self, method: str) -> Constraints:
        timer = self.timer
        return Constraints(limits=self.limits, timer=None if timer is None else functools.partial(timer, recipe=method))

    @functools.cached_property
    def start(self) -> Plan:
        """The plan that every recipe starts from."""
        return Plan.dense(self.shape, class_query=self.class_query)

    @functools.cached_property
    def feasible_methods(self) -> dict[str, list[str]]:
        """The methods that can be solved onto each budget, in the registry's order; `free` stands last."""
        drawn = [name for name, found in self.feasibility.items() if found.cheapest is not None]
        return {
            **{
                label: [name for name in drawn if within(self.feasibility[name], flops, self.limits)]
                for label, flops in self.budgets.items()
            },
            Target.FREE: drawn,
        }

    def flops_of(self, recipe: Recipe) -> int:
        """What its plan comes to, before anything is trained."""
        plan = self.start
        for step in recipe.steps:
            plan = self.methods[step.method].expect(self.shape, plan, step.knobs)
        return predict(self.shape, plan).total

    def propose(self, number: int, history: Sequence[TrialResult]) -> Proposal:
        """`history` is every trial of the job so far, running ones too, in any order; `number` itself is not looked at."""
        history = [*self.earlier, *history]
        dealt = assign(number, self.feasible_methods)
        others = sorted((result for result in history if result.number != number), key=lambda result: result.number)
        # A control is drawn blindly, so it may well be a duplicate.
        known = set() if dealt.origin == Origin.CONTROL else {result.recipe.key for result in others}
        if self.sampler == "forest" and dealt.origin != Origin.CONTROL:
            learnt = self._learnt(number, dealt, others, known)
            if learnt is not None:
                return learnt
        suggest = self._suggest(dealt, number, others)
        last: Proposal | None = None
        for _ in range(DRAWS):
            draw = self.space.sample(suggest(), self.methods, self.shape, among=dealt.among)
            proposal = self._solved(number, dealt, draw)
            if proposal.infeasible is None and proposal.recipe.key not in known:
                return proposal
            if last is None or proposal.infeasible is None:
                last = proposal
        assert last is not None
        return last

    def _suggest(self, dealt: Assignment, number: int, history: list[TrialResult]) -> Callable[[], Suggest]:
        """What each draw asks. Draws that were rejected stay in the study as running, which keeps TPE away from them."""
        name = f"{self.seed}:{number}"
        if dealt.origin == Origin.CONTROL or self.sampler in ("random", "forest"):
            blind = Uniform(name)
            return lambda: blind
        free = dealt.target == Target.FREE
        values = accuracy_and_flops(history) if free else accuracy_at_budgets(history, self.budgets.values())
        feasible_methods = tuple(self.feasible_methods[dealt.target])
        trials = as_trials(
            history, values, lambda recipe: self._replayed(recipe, feasible_methods), single=not free, sampler=self.sampler
        )
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        sampler = make_sampler(self.sampler, seed=seed, among=dealt.among)
        return build_study(trials, ["maximize", "minimize"] if free else ["maximize"], sampler).ask

    def _replayed(self, recipe: Recipe, feasible_methods: tuple[str, ...]) -> Replay | None:
        """What a recipe is in a study of these methods; worked out once."""
        place = (recipe.key, feasible_methods)
        if place not in self._replays:
            methods = {name: self.methods[name] for name in feasible_methods}
            if self.sampler in FLAT:
                made = flat_replay(recipe, self.space, methods, self.shape, constant=self.sampler == "gp")
            else:
                made = replay(recipe, self.space, methods, self.shape)
            self._replays[place] = made
        return self._replays[place]

    @functools.cached_property
    def _replays(self) -> dict[tuple[str, tuple[str, ...]], Replay | None]:
        return {}

    @functools.cached_property
    def learner(self) -> ForestSampler:
        encoder = Encoder(self.space, self.shape, self.methods, self.start)
        dense = predict(self.shape, Plan.dense(self.shape)).total
        return ForestSampler(encoder, self.budgets, dense_flops=dense, epochs=self.training.epochs, seed=self.seed)

    @functools.cached_property
    def _pools(self) -> dict[str, tuple[int, list[Candidate]]]:
        """By target the pool that serves it now, and which one that is."""
        return {}

    def _learnt(self, number: int, dealt: Assignment, history: list[TrialResult], known: set[str]) -> Proposal | None:
        """The candidate that promises the most; None while too little is known to say."""
        if not self.learner.knows(history):
            return None
        allowed = set(dealt.among)
        near = near_draws(self.seed, number, history, self.space, lambda result: result.recipe.method in allowed)
        candidates = [*self._candidates(number, dealt, near), *self._pool(number, dealt)]
        fresh = [c for c in candidates if c[0].recipe.method in allowed and c[0].recipe.key not in known]
        best = self.learner.best(number, dealt.target, [vector for _, vector in fresh], history)
        return None if best is None else fresh[best][0].replace(number=number, origin=dealt.origin)

    def _pool(self, number: int, dealt: Assignment) -> list[Candidate]:
        serving = number // SERVES
        if self._pools.get(dealt.target, (None,))[0] != serving:
            everything = dataclasses.replace(dealt, among=tuple(self.feasible_methods[dealt.target]))
            draws = pool_draws(self.seed, dealt.target, number)
            self._pools[dealt.target] = serving, self._candidates(number, everything, draws)
        return self._pools[dealt.target][1]

    def _candidates(self, number: int, dealt: Assignment, draws: Sequence[Suggest]) -> list[Candidate]:
        """What can be trained of `draws`, solved, with the vectors it is judged by."""
        drawn = (self.space.sample(suggest, self.methods, self.shape, among=dealt.among) for suggest in draws)
        solved = (self._solved(number, dealt, draw) for draw in drawn)
        return [(p, self.learner.encoder.encode(p.recipe, p.plan)) for p in solved if p.infeasible is None and p.plan is not None]

    def _solved(self, number: int, dealt: Assignment, draw: Draw) -> Proposal:
        method, dense = self.methods[draw.method], self.start
        ranges = self.space.methods[draw.method]
        training = self.training.replace(**draw.training)
        budget = self.budgets.get(dealt.target, 0)
        try:
            if dealt.target == Target.FREE:
                solved = evaluate(method, self.shape, dense, draw.knobs)
                budget = solved.flops
            else:
                constraints = self.constraints(draw.method)
                solved = solve(method, self.shape, dense, draw.knobs, budget, ranges=ranges, constraints=constraints)
            if not self.space.contains(dataclasses.replace(draw, knobs=solved.knobs), self.shape):
                raise InfeasibleError(f"{draw.method}: these knobs come to a recipe outside the space {self.space.name!r}")
        except (InfeasibleError, UnsupportedModelError) as error:
            # Some knobs alone are not for every model, such as counts that differ from image to image.
            recipe = self._recipe(dealt, draw.method, draw.knobs, budget, training)
            return Proposal(number=number, recipe=recipe, target=dealt.target, origin=dealt.origin, infeasible=str(error))
        recipe = self._recipe(dealt, draw.method, solved.knobs, budget, training)
        return Proposal(
            number=number, recipe=recipe, target=dealt.target, origin=dealt.origin, plan=solved.plan, flops=solved.flops
        )

    def _recipe(self, dealt: Assignment, method: str, knobs: Knobs, budget: int, training: Training) -> Recipe:
        return Recipe(
            steps=(Step(method=method, knobs=knobs),),
            budget=budget,
            training=training,
            seed=self.seed,
            class_query=self.class_query,
            bound=self.bound,
            # A free trial is there for the front, and held to nothing.
            limits=CostLimits() if dealt.target == Target.FREE else self.limits,
        )
