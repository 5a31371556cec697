"""`ForestSampler`: the candidate with the largest expected improvement, by a surrogate of all trials so far.

1. Candidates: a pool of draws from the whole space, and mutations of the best recipes, all solved onto the trial's budget.
2. Surrogate: fitted to complete and stopped trials across methods and budgets (`surrogate`). It predicts each candidate's final accuracy.
3. Acquisition: expected improvement of the best accuracy within the budget, or for a free trial of the area under the Pareto front.

Until there are `N_STARTUP_TRIALS` results, recipes are drawn at random. Where trials of other models are known, the best known recipes are
candidates (`best_known`); in a search with one dense model a single result is enough then, and the surrogate begins with those trials
(`surrogate`).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence

import numpy as np

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.core.result import ErrorClass, ParetoFront, TrialResult, TrialState
from autoslim.core.selection import best_within
from autoslim.cost import predict
from autoslim.search.budget_allocation import Assignment
from autoslim.search.proposal import Proposal
from autoslim.search.samplers import acquisition
from autoslim.search.samplers.base import N_STARTUP_TRIALS, SamplerContext, SamplingRequest
from autoslim.search.samplers.candidates import POOL_LIFETIME, mutation_draws, pool_draws
from autoslim.search.samplers.features import Encoder, Vector
from autoslim.search.samplers.optuna_study import accuracy_at_end
from autoslim.search.samplers.random_sampler import RandomSampler
from autoslim.search.samplers.surrogate import N_TREES, Surrogate
from autoslim.search.space.space import Sample, Suggest

N_KNOWN = 3
"""Recipes of other models' trials for each chain in a pool: about as many in all as a fifth of its draws. Several starts share them."""

EncodedProposal = tuple[Proposal, Vector]


class ForestSampler:
    """Learns from complete and stopped trials. A trial whose loss diverged counts as accurate as the worst."""

    def __init__(self, context: SamplerContext) -> None:
        self._builder, self._feasible_methods = context.builder, context.feasible_methods
        self._known = context.best_known
        # Of several starts it is none's: vectors say which start a recipe has, and no trial of another model does.
        self._prior = self._known[""].surrogate if "" in self._known else None
        self._feasible_models = context.feasible_models
        self._random = RandomSampler(context)
        self._encoders = {
            label: Encoder.of(self._builder, label) for label in ("", *(start.label for start in self._builder.starts))
        }
        self._dense_flops = predict(self._builder.shape, Plan.dense(self._builder.shape)).total
        # The area under the front ends at the costliest dense model; vectors have FLOPs in units of the first one's.
        self._front_end = max([self._dense_flops, *(start.dense_flops for start in self._builder.starts)]) / self._dense_flops
        # Caches; each holds what would be computed again from the same arguments.
        self._pools: dict[tuple[str, int | None], tuple[int, list[EncodedProposal]]] = {}
        self._vectors: dict[int, tuple[Recipe, Vector]] = {}
        self._fitted: tuple[list[TrialResult], Surrogate] | None = None

    def candidates(self, request: SamplingRequest) -> Iterator[Proposal]:
        best = self._best(request)
        if best is not None:
            yield best
        yield from self._random.candidates(request)

    def _best(self, request: SamplingRequest) -> Proposal | None:
        """None before there are enough results, and where every candidate is known already."""
        observations = [result for result in request.history if is_observation(result)]
        if len(observations) < (N_STARTUP_TRIALS if self._prior is None else 1):
            return None
        methods = set(request.assignment.methods)
        seed, number = self._builder.seed, request.number
        mutations = mutation_draws(self._builder, number, request.history, lambda result: result.recipe.method in methods)
        mutated = self._drawn(request.assignment, mutations)
        encoded = [*self._encoded(number, request.assignment, mutated), *self._pool(number, request.assignment)]
        # The pool has all methods and starts of the target; an opening trial is for one of them.
        fresh = [
            pair for pair in encoded if _is_for(pair[0].recipe, request.assignment) and pair[0].recipe.key not in request.known
        ]
        if not fresh:
            return None
        predictions = self._surrogate(observations).predict([vector for _, vector in fresh])
        # Each trial asks another half of the trees, so that trials that are proposed at the same time differ.
        trees = random.Random(f"{seed}:{number}:trees").sample(range(N_TREES), N_TREES // 2)  # noqa: S311 - nothing secret
        gains = self._gains(predictions[trees], request, [vector for _, vector in fresh])
        return fresh[int(gains.argmax())][0].replace(number=number, origin=request.assignment.origin)

    def _pool(self, number: int, assignment: Assignment) -> list[EncodedProposal]:
        serving, target = number // POOL_LIFETIME, assignment.target
        place = target, assignment.flops
        if self._pools.get(place, (None,))[0] != serving:
            whole = dataclasses.replace(
                assignment, methods=tuple(self._feasible_methods[target]), models=self._feasible_models.get(target, ())
            )
            samples = self._drawn(whole, pool_draws(self._builder.seed, target, number))
            known = [self._known[model] for model in whole.models or ("",) if model in self._known]
            budget, count = self._builder.budget_of(assignment), max(1, N_KNOWN // max(1, len(known)))
            samples += [sample for one in known for label in whole.methods for sample in one.samples(label, budget, count)]
            self._pools[place] = serving, self._encoded(number, whole, samples)
        return self._pools[place][1]

    def _drawn(self, assignment: Assignment, draws: Sequence[Suggest]) -> list[Sample]:
        return [self._builder.sample(suggest, assignment.methods, assignment.models) for suggest in draws]

    def _encoded(self, number: int, assignment: Assignment, samples: Sequence[Sample]) -> list[EncodedProposal]:
        """Those that a model can be built from."""
        proposals = (self._builder.build(number, assignment, sample) for sample in samples)
        return [(p, self._encode(p.recipe, p.plan)) for p in proposals if p.infeasible is None and p.plan is not None]

    def _encode(self, recipe: Recipe, plan: Plan) -> Vector:
        return self._encoders[recipe.model].encode(recipe, plan)

    def _gains(self, predictions: acquisition.Array, request: SamplingRequest, vectors: Sequence[Vector]) -> acquisition.Array:
        """(candidates,). The acquisition function; where no tree expects an improvement, what comes closest to one."""
        budget = self._builder.budget_of(request.assignment)
        if budget is not None:
            best = incumbent_accuracy(request.history, budget, self._builder.limits)
            gains = acquisition.expected_improvement(predictions, best)
            # Without any improvement in sight, the best prediction.
            return gains if gains.max() > 0 else predictions.mean(0)
        front = ParetoFront.of(request.history).results
        unit = self._front_end * self._dense_flops
        steps = [((result.flops or 0) / unit, result.accuracy or 0.0) for result in front]
        flops = np.array([vector[0] for vector in vectors]) / self._front_end
        gains = acquisition.expected_hypervolume_improvement(predictions, flops, steps, floor=self._builder.shape.chance)
        # A free trial can explore: what the trees disagree about most.
        return gains if gains.max() > 0 else predictions.std(0)

    def _surrogate(self, observations: Sequence[TrialResult]) -> Surrogate:
        """Fitted again only when the observations have grown by a twentieth, or one that ended late has come between."""
        fitted_to = list(observations[: refit_size(len(observations))])
        if self._fitted is None or self._fitted[0] != fitted_to:
            self._fitted = fitted_to, self._fit(fitted_to)
        return self._fitted[1]

    def _fit(self, observations: Sequence[TrialResult]) -> Surrogate:
        worst = min((result.accuracy for result in observations if result.accuracy is not None), default=0.0)
        vectors, fractions, accuracies = [], [], []
        for result in observations:
            vectors.append(self._vector(result))
            stopped = result.state is TrialState.STOPPED
            fractions.append((result.epochs or 0.0) / self._builder.training.epochs if stopped else 1.0)
            accuracies.append(worst if result.accuracy is None else result.accuracy)
        return Surrogate(vectors, fractions, accuracies, seed=self._builder.seed, prior=self._prior)

    def _vector(self, result: TrialResult) -> Vector:
        known = self._vectors.get(result.number)
        if known is None or known[0] != result.recipe:
            known = result.recipe, self._encode(result.recipe, self._builder.plan_of(result.recipe))
            self._vectors[result.number] = known
        return known[1]


def _is_for(recipe: Recipe, assignment: Assignment) -> bool:
    return recipe.method in assignment.methods and (not assignment.models or recipe.model in assignment.models)


def incumbent_accuracy(history: Sequence[TrialResult], budget: int, limits: CostLimits) -> float:
    """The accuracy of the trial that would be selected now; 0 before there is one. A trial above a limit is no model to improve on."""
    incumbent = best_within(history, budget, limits)
    return 0.0 if incumbent is None else incumbent.accuracy or 0.0


def is_observation(result: TrialResult) -> bool:
    """Whether the surrogate learns from this trial: it is complete, stopped with an accuracy, or has diverged."""
    if result.duplicate_of is not None:
        return False
    if result.error_class == ErrorClass.DIVERGED:
        return True
    stopped = result.state is TrialState.STOPPED and result.accuracy is not None and result.epochs is not None
    return stopped or accuracy_at_end(result) is not None


def refit_size(count: int) -> int:
    """How many of `count` observations the surrogate is fitted to: all of up to 20, then the last step of a twentieth.

    A fit takes much longer than a prediction, and one observation in twenty changes it little.
    """
    size = min(count, 20)
    while (step := max(1, size // 20)) + size <= count:
        size += step
    return size
