"""What Optuna is told: an in-memory study made anew from the trials' results for every proposal.

There is no Optuna database, so nothing can disagree with the store and no trial stays behind as running after a crash.
An Optuna trial holds the *solved* knobs, not the drawn ones: the sampler learns what was really trained.

- complete -> COMPLETE; running -> RUNNING, which TPE keeps away from.
- stopped early -> PRUNED, which TPE ranks below every complete trial, those that got further first, then by accuracy: the accuracy
  less the median of the trials stopped at the same budget is its intermediate value, at its epochs in thousandths. Optuna refuses
  intermediate values under two objectives; there both are user attributes.
- infeasible or diverged -> PRUNED with a violated constraint, ranked last: the recipe is bad, and a FAIL would be ignored and
  proposed again.
- failed for another reason (a lost node, say) -> left out: it says nothing about the recipe.
- an answered duplicate, a recipe of several steps, or one outside the space -> left out.
"""

from __future__ import annotations

import logging
import math
import statistics
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from autoslim.errors import DivergedError
from autoslim.methods.base import Method
from autoslim.recipe import Recipe
from autoslim.result import TrialResult, TrialState
from autoslim.search.space import Draw, Space, same
from autoslim.shape import ViTShape

_STARTUP = 6
"""Trials that TPE wants to see before it models them; the opening of `deal` has covered the methods by then."""
_NEAR = 0.05
"""A free trial counts for a budget when its FLOPs are this close to it."""
_STUDY = "autoslim proposal"

Direction = Literal["maximize", "minimize"]
Values = dict[int, list[float]]
"""Objective values by trial number."""


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """`group` models each method's knobs jointly though they are absent from the other methods' trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=_STARTUP)


def build_study(
    trials: Iterable[FrozenTrial], directions: Sequence[Direction], sampler: optuna.samplers.BaseSampler
) -> optuna.Study:
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), study_name=_STUDY, directions=list(directions), sampler=sampler
    )
    for trial in trials:
        study.add_trial(trial)
    return study


def accuracy_and_flops(history: Sequence[TrialResult]) -> Values:
    """For free trials: what the front is made of."""
    values = {}
    for result in history:
        accuracy = measured(result)
        if accuracy is not None:
            values[result.number] = [accuracy, float(result.flops or result.flops_predicted or result.recipe.budget)]
    return values


def accuracy_at_budgets(history: Sequence[TrialResult], budgets: Collection[int]) -> Values:
    """For a budget: accuracy over the median of the trials solved onto the same budget.

    What is good at one budget is mostly good at the others, and a budget alone has too few trials to learn from; less its own
    budget's median, an accuracy at 70 % of the FLOPs does not beat one at 30 % just for being dearer.
    """
    groups: dict[int, dict[int, float]] = {}
    for result in history:
        nearest = min(budgets, key=lambda flops: abs(flops - result.recipe.budget), default=None)
        accuracy = measured(result)
        if nearest is not None and accuracy is not None and abs(result.recipe.budget - nearest) <= _NEAR * nearest:
            groups.setdefault(nearest, {})[result.number] = accuracy
    return {
        number: [accuracy - statistics.median(group.values())] for group in groups.values() for number, accuracy in group.items()
    }


def measured(result: TrialResult) -> float | None:
    if result.state is not TrialState.COMPLETE or result.accuracy is None or not math.isfinite(result.accuracy):
        return None
    return result.accuracy


def as_trials(
    history: Sequence[TrialResult],
    values: Values,
    space: Space,
    methods: Mapping[str, Method],
    shape: ViTShape,
    *,
    single: bool = True,
) -> list[FrozenTrial]:
    """`methods` are those the study chooses from, `single` says that it has one objective; complete trials without `values` are not for
    this study."""
    trials = []
    medians = _stopped_medians(history)
    for result in history:
        told = _told(result, values.get(result.number))
        if told is not None and result.state is TrialState.STOPPED:
            told |= _fidelity(result, medians[result.recipe.budget], single=single)
        replay = _replayed(result.recipe, space, methods, shape)
        if told is not None and replay is not None and result.duplicate_of is None:
            trials.append(create_trial(params=replay.params, distributions=replay.distributions, **told))
    return trials


def _told(result: TrialResult, values: list[float] | None) -> dict[str, Any] | None:
    if values is not None:
        return {"state": optuna.trial.TrialState.COMPLETE, "values": values}
    if result.state is TrialState.RUNNING:
        return {"state": optuna.trial.TrialState.RUNNING}
    if result.state is TrialState.STOPPED:
        return {"state": optuna.trial.TrialState.PRUNED}
    if result.state is TrialState.INFEASIBLE or result.error_class == DivergedError.__name__:
        return {"state": optuna.trial.TrialState.PRUNED, "constraints": {"feasible": 1.0}}
    return None


def _stopped_medians(history: Sequence[TrialResult]) -> dict[int, float]:
    groups: dict[int, list[float]] = {}
    for result in history:
        if result.state is TrialState.STOPPED:
            groups.setdefault(result.recipe.budget, []).append(result.accuracy or 0.0)
    return {budget: statistics.median(group) for budget, group in groups.items()}


def _fidelity(result: TrialResult, median: float, *, single: bool) -> dict[str, Any]:
    """How far a stopped trial came, and what it showed there."""
    epochs, accuracy = result.epochs or 0.0, result.accuracy or 0.0
    facts: dict[str, Any] = {"user_attrs": {"epochs": epochs, "accuracy": accuracy}}
    return facts | ({"intermediate_values": {round(1000 * epochs): accuracy - median}} if single else {})


class _Replay:
    """A `Suggest` that answers with a recipe's own values and notes the distributions they are asked from."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        # What a method rounded to the nearest count may lie a little outside.
        return float(self._note(name, FloatDistribution(low, high, log=log), min(max(self._values[name], low), high)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._note(name, IntDistribution(low, high, log=log), self._values[name]))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._note(name, CategoricalDistribution(choices), next(c for c in choices if same(c, self._values[name])))

    def _note(self, name: str, distribution: BaseDistribution, value: Any) -> Any:
        self.params[name], self.distributions[name] = value, distribution
        return value


def _replayed(recipe: Recipe, space: Space, methods: Mapping[str, Method], shape: ViTShape) -> _Replay | None:
    """`None` for a recipe that is no point of this space: of several steps, given by hand, or older than the space."""
    if len(recipe.steps) != 1 or recipe.steps[0].method not in methods:
        return None
    (step,) = recipe.steps
    settings = {key: getattr(recipe.training, key) for key in space.training}
    point = Draw(method=step.method, knobs=step.knobs, training=settings)
    if not space.contains(point, shape):
        return None
    values = {f"{step.method}.{knob}": value for knob, value in step.knobs.items()}
    replay = _Replay({"method": step.method, **values, **{f"training.{key}": value for key, value in settings.items()}})
    try:
        draw = space.sample(replay, methods, shape, among=list(methods))
    except KeyError:
        return None
    return replay if draw.knobs.keys() == step.knobs.keys() else None


def _not_ours(record: logging.LogRecord) -> bool:
    return _STUDY not in record.getMessage()


# Optuna announces every new study; ours are made by the hundred. The user's own stay as they are.
logging.getLogger("optuna.storages._in_memory").addFilter(_not_ours)
