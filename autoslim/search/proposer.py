"""`Proposer`: the next recipe, as a pure function of the job's seed, the trial's number and the results so far.

Three parts share the work:

1. `BudgetAllocator` says by the trial's number which budget it is for, and which methods its recipe may use.
2. A `Sampler` proposes candidates from the history: the space's points, solved onto the budget by the `RecipeBuilder`.
3. The proposer takes the first candidate that can be trained and that is no duplicate.

After a crash the same number with the same history gives the same recipe. What samplers keep between proposals are caches.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

from autoslim.core.constraints import CostLimits
from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.core.result import Origin, Target, TrialResult
from autoslim.core.shape import ViTShape
from autoslim.cost import LatencyTable
from autoslim.errors import BudgetError, RequestError, SpaceError, UnsupportedModelError
from autoslim.methods import METHODS, narrowing
from autoslim.methods.base import Method
from autoslim.search.budget_allocation import Assignment, BudgetAllocator, models_of
from autoslim.search.feasibility import Feasibility, describe_unreachable
from autoslim.search.floor_target import FloorTarget
from autoslim.search.prior import Prior, PriorSize, size_of
from autoslim.search.proposal import Proposal
from autoslim.search.recipe_builder import RecipeBuilder
from autoslim.search.samplers import SAMPLERS, Sampler, SamplerContext, SamplingRequest
from autoslim.search.samplers.best_known import BestKnown
from autoslim.search.samplers.random_sampler import RandomSampler
from autoslim.search.space.space import Space
from autoslim.search.start import Start
from autoslim.search.start_feasibility import StartFeasibility

RANDOM = "random"
"""The sampler that draws at random from the first trial to the last."""

MAX_CANDIDATES = 16
"""Candidates that are tried for one trial. In a narrow space nearly all may be infeasible or known; then the trial is given back as such,
and the search continues with the next number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposer:
    """`budgets` are multiply-accumulates by label; `limits` hold beside each of them. `training` has the settings that the space does not
    search.

    `earlier` are trials of earlier searches that could have been this one's, with numbers below 0; every proposal has them in its history.
    `timer` predicts the latency of a plan; without it a limit on latency is ignored. Where the search has several `starts`, `shape` is the
    first one's.
    `prior` are trials of other models; with them, even with none of this space's methods, the search opens with the best known recipes.
    Each of several starts has its own. The sampler `random` and the controls ignore them.
    `floor` is a target beside the budgets, once the dense model's accuracy is known; with one start only.

    Raises:
        RequestError: for an unknown sampler.
        SpaceError: for a space stored by another version, or one without a single recipe.
        UnsupportedModelError: when no method of the space can slim the model.
        BudgetError: when no method of the space reaches a budget.
    """

    space: Space
    shape: ViTShape
    budgets: dict[str, int]
    training: TrainingSettings
    seed: int
    sampler: str = "forest"
    class_query: bool = False
    bound: str = "max"
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    timer: LatencyTable | None = None
    earlier: tuple[TrialResult, ...] = ()
    starts: tuple[Start, ...] = ()
    prior: Prior | None = None
    floor: FloorTarget | None = None
    methods: Mapping[str, Method] = dataclasses.field(default_factory=lambda: METHODS)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise RequestError(f"there is no sampler {self.sampler!r}; allowed: {', '.join(SAMPLERS)}")
        # Trials without a budget are stored under this name.
        if Target.FREE in self.budgets:
            raise RequestError(f"a budget cannot be called {Target.FREE!r}")
        for name, ranges in self.space.methods.items():
            if name not in self.methods or ranges.keys() != self.methods[name].ranges.keys():
                raise SpaceError(
                    f"{self.space.name}: methods.{name} is not of this version of autoslim; read the space's file again"
                )
        # These checks evaluate recipes, which presumes everything that is checked above.
        for start in self.by_model.values():
            if not start.feasibility:
                raise UnsupportedModelError(_named(start, "; ".join(start.left_out.values())))
        if not self.feasible_methods[Target.FREE]:
            raise SpaceError(f"{self.space.name}: no recipe is inside these ranges once its method has repaired it; widen them")
        for label, flops in self.budgets.items():
            if not self.feasible_methods[label]:
                others = [name for name in narrowing(self.shape) if name not in self.feasibility]
                reached = {start.named(name): one for start in self.by_model.values() for name, one in start.feasibility.items()}
                raise BudgetError(describe_unreachable(label, flops, self.limits, reached, self.space.name, others))

    @functools.cached_property
    def builder(self) -> RecipeBuilder:
        own = {field.name for field in dataclasses.fields(self)}
        names = [field.name for field in dataclasses.fields(RecipeBuilder) if field.name in own]
        return RecipeBuilder(**{name: getattr(self, name) for name in names})

    @functools.cached_property
    def by_model(self) -> dict[str, StartFeasibility]:
        """What the space can make of each start, by its label; the only one has the label ''."""
        if not self.starts:
            return {"": StartFeasibility(self.builder, True)}
        return {start.label: StartFeasibility(self.builder.of(start.label), False) for start in self.starts}

    @property
    def _first(self) -> StartFeasibility:
        return next(iter(self.by_model.values()))

    @property
    def left_out(self) -> dict[str, str]:
        """Chains of the space, by label, that cannot slim the first start, each with the reason."""
        return self._first.left_out

    @property
    def feasibility(self) -> dict[str, Feasibility]:
        """By the label of a chain: what its cheapest and its costliest recipe from the first start cost."""
        return self._first.feasibility

    @functools.cached_property
    def feasible_methods(self) -> dict[str, list[str]]:
        """The labels of the chains that can be solved onto each budget, methods alone in the registry's order first; `free` is last."""
        order = list(self.space.units_of(self.methods))
        found: dict[str, list[str]] = {}
        for target in (*self.budgets, Target.FREE):
            chains = {chain for start in self.by_model.values() for chain in start.chains_for(target)}
            found[target] = [chain for chain in order if chain in chains]
        if self.floor is None:
            return found
        # Behind the budgets: `free` is last.
        return {
            **{label: found[label] for label in self.budgets},
            self.floor.label: self._above_floor,
            Target.FREE: found[Target.FREE],
        }

    @property
    def _above_floor(self) -> list[str]:
        """The chains that some target of the floor may ask for."""
        assert self.floor is not None
        return self._reaching(self.floor.dense_flops)

    def _reaching(self, flops: int) -> list[str]:
        """The chains from the only start that reach `flops` under the limits, in order."""
        return [
            chain
            for chain in self.space.units_of(self.methods)
            if chain in self.feasibility and self.feasibility[chain].reaches(flops, self.limits)
        ]

    @property
    def targets(self) -> list[str]:
        """The labels that models are looked for."""
        return [*self.budgets, *([] if self.floor is None else [self.floor.label])]

    @functools.cached_property
    def feasible_models(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """For each target and chain in `feasible_methods` the labels of the starts that reach it; empty where there is only one start."""
        if not self.starts:
            return {}
        return {
            target: {
                chain: tuple(label for label, start in self.by_model.items() if chain in start.chains_for(target))
                for chain in chains
            }
            for target, chains in self.feasible_methods.items()
        }

    @property
    def prior_size(self) -> PriorSize:
        """The trials of other models that this search makes use of."""
        return size_of(self._used_prior or (), self.space.methods)

    def describe_prior(self) -> str:
        """A sentence without its end about them."""
        return self.prior_size.describe(self.sampler, starts=len(self.by_model))

    @property
    def _used_prior(self) -> Prior | None:
        return None if self.sampler == RANDOM else self.prior

    @property
    def unused_starts(self) -> list[tuple[str, str, str]]:
        """Budget, start and reason where a start is not used for a budget; none where there is only one start."""
        if not self.starts:
            return []
        reasons = [(budget, label, start.why_not(budget)) for budget in self.budgets for label, start in self.by_model.items()]
        return [(budget, label, reason) for budget, label, reason in reasons if reason is not None]

    def flops_of(self, recipe: Recipe) -> int:
        """Multiply-accumulates of the recipe's plan, before anything is trained."""
        return self.builder.flops_of(recipe)

    def propose(self, number: int, history: Sequence[TrialResult]) -> Proposal:
        """The proposal of trial `number`. `history` is every trial of the job so far in any order, running ones too; `number` itself is
        ignored.

        The proposal is infeasible, or a duplicate, only where each of `MAX_CANDIDATES` candidates is.
        """
        # In the order of numbers: proposals must not depend on the order in which results arrive.
        others = sorted((r for r in [*self.earlier, *history] if r.number != number), key=lambda result: result.number)
        assignment = self._aimed(self._allocator.assign(number), others)
        # A control must not depend on the history, so it may be a duplicate.
        known = frozenset() if self._is_control(assignment) else frozenset(result.recipe.key for result in others)
        request = SamplingRequest(number=number, assignment=assignment, history=others, known=known)
        sampler = self._control_sampler if self._is_control(assignment) else self._sampler
        rejected: Proposal | None = None
        candidates = itertools.chain(self._first_candidates(request), sampler.candidates(request))
        for candidate in itertools.islice(candidates, MAX_CANDIDATES):
            if candidate.infeasible is None and candidate.recipe.key not in known:
                return candidate
            # The latest duplicate is better than an infeasible recipe: its result is known without training.
            if rejected is None or candidate.infeasible is None:
                rejected = candidate
        assert rejected is not None
        return rejected

    def _aimed(self, assignment: Assignment, history: Sequence[TrialResult]) -> Assignment:
        """With the FLOPs of a trial for the floor, and without the methods that do not reach them."""
        if self.floor is None or assignment.target != self.floor.label:
            return assignment
        able = {
            name: found.cheapest.flops
            for name, found in self.feasibility.items()
            if name in assignment.methods and found.cheapest
        }
        flops = self.floor.flops(history, cheapest=min(able.values()), limits=self.limits)
        reaching = self._reaching(flops)
        return dataclasses.replace(
            assignment, flops=flops, methods=tuple(name for name in assignment.methods if name in reaching)
        )

    def _first_candidates(self, request: SamplingRequest) -> Sequence[Proposal]:
        """What comes before the sampler's own candidates: the best known recipes, where the trial is for them."""
        if not request.assignment.best_known:
            return ()
        # An opening trial is for one start.
        return self._best_known["".join(request.assignment.models)].proposals(request.number, request.assignment, request.known)

    @staticmethod
    def _is_control(assignment: Assignment) -> bool:
        return assignment.origin == Origin.CONTROL

    @functools.cached_property
    def _allocator(self) -> BudgetAllocator:
        methods = self.feasible_methods
        # How methods rank does not depend on the start.
        opening = next(iter(self._best_known.values())).ranked(methods[Target.FREE]) if self._best_known else ()
        return BudgetAllocator(
            feasible_methods=methods,
            feasible_models=self.feasible_models,
            best_known=opening,
            floor=None if self.floor is None else self.floor.label,
        )

    @functools.cached_property
    def _best_known(self) -> dict[str, BestKnown]:
        """By the label of the start, or '' where there is only one; empty without a prior."""
        prior = self._used_prior
        if prior is None:
            return {}
        return {label: BestKnown(start.builder, prior, start.feasibility) for label, start in self.by_model.items()}

    @functools.cached_property
    def _sampler(self) -> Sampler:
        return SAMPLERS[self.sampler](self._context)

    @functools.cached_property
    def _control_sampler(self) -> Sampler:
        return RandomSampler(self._context)

    @property
    def _context(self) -> SamplerContext:
        models = {target: models_of(by_method) for target, by_method in self.feasible_models.items()}
        return SamplerContext(
            builder=self.builder, feasible_methods=self.feasible_methods, feasible_models=models, best_known=self._best_known
        )


def _named(start: StartFeasibility, reason: str) -> str:
    return reason if start.is_only else f"{start.start.label}: {reason}"
