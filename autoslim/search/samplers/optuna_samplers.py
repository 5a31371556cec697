"""Optuna's samplers by name, each made anew for a proposal from its seed alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

_STARTUP = 6
"""Trials that TPE and the Gaussian process want to see before they model them; the opening of `assign` has covered the methods by then."""
POPULATION = 12
"""Complete trials in a generation of NSGA-II and NSGA-III. Optuna's 50 are more than most searches have in all."""
FLAT = ("nsga2", "nsga3", "gp")
"""Samplers that need every trial to have all methods' knobs."""


class MethodFirst(optuna.samplers.TPESampler):
    """TPE that draws the method and then models that method's knobs only: the others' would be thrown away.

    `group` models each method's knobs jointly though they are absent from the other methods' trials.
    """

    def __init__(self, *, seed: int, among: Sequence[str]) -> None:
        """`among` are the methods that this proposal may be of."""
        super().__init__(seed=seed, multivariate=True, group=True, n_startup_trials=_STARTUP)
        self._among = tuple(among)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        common = {name: space for name, space in search_space.items() if name == "method" or name.startswith("training.")}
        drawn = super().sample_relative(study, trial, common)
        method = self._among[0] if len(self._among) == 1 else drawn.get("method")
        own = {name: space for name, space in search_space.items() if name.startswith(f"{method}.")}
        return drawn | super().sample_relative(study, trial, own)


def make_sampler(name: str, *, seed: int, among: Sequence[str]) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return MethodFirst(seed=seed, among=among)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
        if name == "nsga3":
            return optuna.samplers.NSGAIIISampler(seed=seed, population_size=POPULATION)
        assert name == "gp", name
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_STARTUP)


def generation_attribute(name: str, complete: int) -> dict[str, Any]:
    """The system attribute that says which generation the next complete trial is of, after `complete` others; empty for other samplers.

    A genetic sampler keeps its generations in the study. They follow from the order of the complete trials, so that a study made anew
    has the same.
    """
    if name not in ("nsga2", "nsga3"):
        return {}
    key = optuna.samplers.NSGAIISampler if name == "nsga2" else optuna.samplers.NSGAIIISampler
    return {key._get_generation_key(): complete // POPULATION}
