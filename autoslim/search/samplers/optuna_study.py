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

import copy
import datetime
import logging
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from autoslim.core.recipe import Recipe
from autoslim.core.result import ErrorClass, TrialResult, TrialState
from autoslim.core.shape import ViTShape
from autoslim.methods.base import Method
from autoslim.methods.knob import Knob, layer_index
from autoslim.search.samplers.optuna_samplers import generation_attribute
from autoslim.search.space.space import Draw, Space, Uniform, draw_knob, same

KNOWN = 256
"""Trials that a study is told at most: the best quarter of them, running ones and the latest. TPE holds at most 25 for good ones, and what
it takes for a proposal grows with the rest."""
_NEAR = 0.05
"""A free trial counts for a budget when its FLOPs are this close to it."""
_STUDY = "autoslim proposal"
_NO_DATE = datetime.datetime(2000, 1, 1)

Direction = Literal["maximize", "minimize"]
Values = dict[int, list[float]]
"""Objective values by trial number."""


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


class ToldTrial(FrozenTrial):
    """A trial that a study is told of and nobody changes any more: a study that takes it in need not copy it to the bottom."""

    def __deepcopy__(self, memo: dict[int, Any]) -> ToldTrial:
        return copy.copy(self)


Replays = dict[str, "Replay | None"]
"""By a recipe's key. A study is made anew for every proposal, what a recipe is in it stays."""


def as_trials(
    history: Sequence[TrialResult],
    values: Values,
    replayed: Callable[[Recipe], Replay | None],
    *,
    single: bool = True,
    sampler: str = "tpe",
) -> list[FrozenTrial]:
    """At most `KNOWN` trials, in number order. `replayed` says what a recipe is in the study, `single` that it has one objective.

    Complete trials without `values` are not for this study.
    """
    medians = _stopped_medians(history)
    told = []
    for result in history:
        facts = None if result.duplicate_of is not None else _told(result, values.get(result.number))
        if facts is not None and (replay := replayed(result.recipe)) is not None:
            if result.state is TrialState.STOPPED:
                facts |= _fidelity(result, medians[result.recipe.budget], single=single)
            told.append((facts, replay))
    trials, complete = [], 0
    for facts, replay in _most_telling(told):
        if "values" in facts:
            facts["system_attrs"] = generation_attribute(sampler, complete)
            complete += 1
        trials.append(_trial(replay, facts))
    return trials


def _most_telling(told: list[tuple[dict[str, Any], Replay]]) -> list[tuple[dict[str, Any], Replay]]:
    if len(told) <= KNOWN:
        return told
    best = sorted(
        (i for i, (facts, _) in enumerate(told) if "values" in facts), key=lambda i: told[i][0]["values"][0], reverse=True
    )
    kept = set(best[: KNOWN // 4]) | {i for i, (facts, _) in enumerate(told) if not facts["state"].is_finished()}
    for i in reversed(range(len(told))):
        if len(kept) >= KNOWN:
            break
        kept.add(i)
    return [told[i] for i in sorted(kept)]


def _trial(replay: Replay, facts: dict[str, Any]) -> FrozenTrial:
    state: optuna.trial.TrialState = facts["state"]
    constraints: dict[str, float] = facts.get("constraints", {})
    trial = ToldTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=None,
        values=facts.get("values"),
        datetime_start=_NO_DATE,
        datetime_complete=_NO_DATE if state.is_finished() else None,
        params=replay.params,
        distributions=replay.distributions,
        user_attrs=facts.get("user_attrs", {}),
        system_attrs=dict(facts.get("system_attrs", {})),
        intermediate_values=facts.get("intermediate_values", {}),
    )
    for name, value in constraints.items():
        trial.set_constraint(name, value)
    return trial


def _told(result: TrialResult, values: list[float] | None) -> dict[str, Any] | None:
    if values is not None:
        return {"state": optuna.trial.TrialState.COMPLETE, "values": values}
    if result.state is TrialState.RUNNING:
        return {"state": optuna.trial.TrialState.RUNNING}
    if result.state is TrialState.STOPPED:
        return {"state": optuna.trial.TrialState.PRUNED}
    if result.state is TrialState.INFEASIBLE or result.error_class == ErrorClass.DIVERGED:
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


class Replay:
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

    def fill(self, name: str, knob: Knob, depth: int, blind: Uniform | None) -> None:
        """Adds a knob that the recipe does not have."""
        default = layer_index(knob.default, depth) if knob.kind == "layer" else knob.default
        self._values[name] = default if blind is None else draw_knob(blind, name, knob, depth)
        draw_knob(self, name, knob, depth)

    def _note(self, name: str, distribution: BaseDistribution, value: Any) -> Any:
        self.params[name], self.distributions[name] = value, distribution
        return value


def replay(recipe: Recipe, space: Space, methods: Mapping[str, Method], shape: ViTShape) -> Replay | None:
    """`methods` are those that the study chooses from.

    `None` for a recipe that is no point of this space: of several steps, given by hand, or older than the space.
    """
    if len(recipe.steps) != 1 or recipe.steps[0].method not in methods:
        return None
    (step,) = recipe.steps
    settings = {key: getattr(recipe.training, key) for key in space.training}
    point = Draw(method=step.method, knobs=step.knobs, training=settings)
    if not space.contains(point, shape):
        return None
    values = {f"{step.method}.{knob}": value for knob, value in step.knobs.items()}
    replayed = Replay({"method": step.method, **values, **{f"training.{key}": value for key, value in settings.items()}})
    try:
        draw = space.sample(replayed, methods, shape, among=list(methods))
    except KeyError:
        return None
    return replayed if draw.knobs.keys() == step.knobs.keys() else None


def flat_replay(recipe: Recipe, space: Space, methods: Mapping[str, Method], shape: ViTShape, *, constant: bool) -> Replay | None:
    """With the knobs of all methods, for samplers that know no conditional ones.

    Those that the recipe does not have cannot have mattered. They have their defaults (`constant`: a model of distances then sees no
    difference in them), or values drawn blindly from the recipe's key (a genetic sampler then has something to cross).
    """
    replayed = replay(recipe, space, methods, shape)
    if replayed is None:
        return None
    blind = Uniform(recipe.key)
    for method in methods:
        for name, knob in space.methods[method].items():
            full = f"{method}.{name}"
            if knob.searched and full not in replayed.params:
                replayed.fill(full, knob, shape.depth, None if constant else blind)
    return replayed


def _not_ours(record: logging.LogRecord) -> bool:
    return _STUDY not in record.getMessage()


# Optuna announces every new study; ours are made by the hundred. The user's own stay as they are.
logging.getLogger("optuna.storages._in_memory").addFilter(_not_ours)
