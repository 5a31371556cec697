"""Optuna's samplers. For each proposal a study is made from the history, and its sampler from the trial's seed.

At a budget the study has one objective, the accuracy (`optuna_study.accuracy_at_budgets`): all trials there have nearly the same FLOPs. For
a free trial it has two, accuracy up and FLOPs down.
"""

from __future__ import annotations

import abc
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from autoslim.core.recipe import Recipe
from autoslim.core.result import Target
from autoslim.methods.chain import chain_of
from autoslim.search.proposal import Proposal
from autoslim.search.samplers.base import N_STARTUP_TRIALS, SamplerContext, SamplingRequest
from autoslim.search.samplers.optuna_replay import Replay, flat_replay, replay
from autoslim.search.samplers.optuna_study import accuracy_and_flops, accuracy_at_budgets, as_trials, build_study

POPULATION_SIZE = 12
"""Complete trials in a generation of NSGA-II and NSGA-III. Most searches have fewer trials in all than Optuna's 50."""


class OptunaSampler(abc.ABC):
    """The common part: a subclass names Optuna's sampler and how a recipe becomes a trial of the study.

    Of Optuna's samplers only TPE learns from stopped trials.
    """

    def __init__(self, context: SamplerContext) -> None:
        self._builder, self._feasible_methods = context.builder, context.feasible_methods
        self._feasible_models = context.feasible_models
        self._replays: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Replay | None] = {}

    def candidates(self, request: SamplingRequest) -> Iterator[Proposal]:
        study = self._study(request)
        while True:
            # A rejected draw stays in the study as running, and TPE avoids it.
            sample = self._builder.sample(study.ask(), request.assignment.methods, request.assignment.models)
            yield self._builder.build(request.number, request.assignment, sample)

    @abc.abstractmethod
    def make(self, seed: int, methods: Sequence[str]) -> optuna.samplers.BaseSampler:
        """Optuna's sampler for one proposal of one of the chains with the labels `methods`."""

    def replay(self, recipe: Recipe, units: Sequence[str], models: Sequence[str]) -> Replay | None:
        """The recipe as parameters of a study that chooses from the chains `units` and the starts `models`; None where it is no point of
        the space."""
        own = self._builder.of(recipe.model)
        return replay(recipe, own.space, own.methods, own.shape, units=units, models=models, asked_depth=own.asked_depth)

    def flat_replay(self, recipe: Recipe, units: Sequence[str], models: Sequence[str], *, constant: bool) -> Replay | None:
        """As `replay`, with the knobs of all methods (`optuna_replay.flat_replay`)."""
        own = self._builder.of(recipe.model)
        return flat_replay(
            recipe,
            own.space,
            own.methods,
            own.shape,
            constant=constant,
            units=units,
            models=models,
            asked_depth=own.asked_depth,
        )

    def system_attributes(self, complete: int) -> dict[str, Any]:
        """What Optuna's sampler stores with a complete trial that comes after `complete` others."""
        return {}

    def _study(self, request: SamplingRequest) -> optuna.Study:
        free, history = request.assignment.target == Target.FREE, request.history
        budgets = {*self._builder.budgets.values(), *([] if free else [self._builder.budget_of(request.assignment) or 0])}
        values = accuracy_and_flops(history) if free else accuracy_at_budgets(history, budgets)
        methods = tuple(self._feasible_methods[request.assignment.target])
        # All starts of the target, so that the parameter `model` has the same choices in all trials of the study.
        models = self._feasible_models.get(request.assignment.target, ())
        trials = as_trials(
            history,
            values,
            lambda recipe: self._cached_replay(recipe, methods, models),
            single_objective=not free,
            system_attributes=self.system_attributes,
        )
        # A seed of the trial's own, of the 32 bits that NumPy takes.
        digest = hashlib.sha256(f"{self._builder.seed}:{request.number}".encode()).digest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self.make(int.from_bytes(digest[:4], "big"), request.assignment.methods)
        return build_study(trials, ["maximize", "minimize"] if free else ["maximize"], sampler)

    def _cached_replay(self, recipe: Recipe, names: tuple[str, ...], models: tuple[str, ...]) -> Replay | None:
        """Each recipe is replayed once: a study is made for every proposal, but a recipe is the same in all of them."""
        place = (recipe.key, names, models)
        if place not in self._replays:
            self._replays[place] = self.replay(recipe, names, models)
        return self._replays[place]


class TPE(OptunaSampler):
    """Tree-structured Parzen estimator (Bergstra et al., 2011); multi-objective for free trials (Ozaki et al., 2022)."""

    def make(self, seed: int, methods: Sequence[str]) -> optuna.samplers.BaseSampler:
        return MethodFirstTPE(seed=seed, methods=methods)


class MethodFirstTPE(optuna.samplers.TPESampler):
    """Samples the chain, then the knobs of its methods only: values for the other methods' knobs would never be used.

    `group` models the knobs of a method jointly, although trials of other methods do not have them.
    """

    def __init__(self, *, seed: int, methods: Sequence[str]) -> None:
        """`methods` are the labels of the chains that the proposal is chosen from."""
        super().__init__(seed=seed, multivariate=True, group=True, n_startup_trials=N_STARTUP_TRIALS)
        self._methods = tuple(methods)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        common = {
            name: space for name, space in search_space.items() if name in ("method", "model") or name.startswith("training.")
        }
        sampled = super().sample_relative(study, trial, common)
        # With a single chain there is no parameter for it (`Space.sample`).
        label = self._methods[0] if len(self._methods) == 1 else sampled.get("method")
        steps = chain_of(label) if label is not None else ()
        own = {name: space for name, space in search_space.items() if name.partition(".")[0] in steps}
        if len(steps) > 1 and "split" in search_space:
            own["split"] = search_space["split"]
        return sampled | super().sample_relative(study, trial, own)


class GeneticSampler(OptunaSampler):
    """NSGA-II and NSGA-III cross trials that have the same parameters, so each trial gets the knobs of all methods."""

    optuna_class: ClassVar[type[optuna.samplers.NSGAIISampler | optuna.samplers.NSGAIIISampler]]

    def make(self, seed: int, methods: Sequence[str]) -> optuna.samplers.BaseSampler:
        return self.optuna_class(seed=seed, population_size=POPULATION_SIZE)

    def replay(self, recipe: Recipe, units: Sequence[str], models: Sequence[str]) -> Replay | None:
        # Knobs that the recipe lacks have random values: with constant ones crossing could never vary them.
        return self.flat_replay(recipe, units, models, constant=False)

    def system_attributes(self, complete: int) -> dict[str, Any]:
        """The generation. Optuna stores it in the study; it follows from the order of the complete trials, so a new study has the same."""
        return {self.optuna_class._get_generation_key(): complete // POPULATION_SIZE}


class NSGA2(GeneticSampler):
    """Non-dominated sorting genetic algorithm II (Deb et al., 2002)."""

    optuna_class = optuna.samplers.NSGAIISampler


class NSGA3(GeneticSampler):
    """Non-dominated sorting genetic algorithm III (Deb & Jain, 2014)."""

    optuna_class = optuna.samplers.NSGAIIISampler


class GaussianProcess(OptunaSampler):
    """Optuna's `GPSampler`, a Gaussian process. It models only parameters that all trials have, so each trial gets all methods' knobs."""

    def make(self, seed: int, methods: Sequence[str]) -> optuna.samplers.BaseSampler:
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=N_STARTUP_TRIALS)

    def replay(self, recipe: Recipe, units: Sequence[str], models: Sequence[str]) -> Replay | None:
        # Knobs that the recipe lacks have their defaults: a kernel of distances then sees no difference in them.
        return self.flat_replay(recipe, units, models, constant=True)
