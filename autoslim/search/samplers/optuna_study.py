"""The history as an Optuna study: an in-memory study is made from the trials' results for every proposal.

There is no Optuna database, so nothing can disagree with the store, and no trial stays behind as running after a crash.
An Optuna trial holds the *solved* knobs, not the drawn ones: the sampler learns from what was trained.

- complete -> COMPLETE; running -> RUNNING, which TPE avoids (Optuna's constant liar).
- stopped early -> PRUNED. TPE ranks these below every complete trial: by the step of the last intermediate value, then by that value.
  The step is the epochs in thousandths; the value is the accuracy minus the median of the trials stopped at the same budget. Optuna
  refuses intermediate values under two objectives; there both are user attributes.
- infeasible or diverged -> PRUNED with a violated constraint, ranked last. The recipe is bad; as FAIL, Optuna would ignore it and propose
  it again.
- failed for another reason, such as a lost node -> left out: this says nothing about the recipe.
- an answered duplicate, a recipe of several steps, or one outside the space -> left out.
"""

from __future__ import annotations

import copy
import datetime
import logging
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial

from autoslim.core.recipe import Recipe
from autoslim.core.result import ErrorClass, TrialResult, TrialState
from autoslim.search.samplers.optuna_replay import Replay

MAX_STUDY_TRIALS = 256
"""The most trials in a study. With one objective TPE counts at most 25 trials as good, and its time grows with the number of the others."""
BEST_SHARE = 1 / 4
"""Share of these that the best trials have; all running ones and the latest follow."""
_NEAR_BUDGET = 0.05
"""A free trial also counts for a budget when its FLOPs differ by at most this share."""
_STUDY = "autoslim proposal"
_NO_DATE = datetime.datetime(2000, 1, 1)
"""Optuna requires dates; a constant keeps proposals a function of the history."""

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
    """The two objectives of a free trial, those of the Pareto front."""
    values = {}
    for result in history:
        accuracy = accuracy_at_end(result)
        if accuracy is not None:
            values[result.number] = [accuracy, float(result.flops or result.flops_predicted or result.recipe.budget)]
    return values


def accuracy_at_budgets(history: Sequence[TrialResult], budgets: Collection[int]) -> Values:
    """The objective of a trial at a budget: accuracy minus the median of the trials solved onto the same budget.

    What is good at one budget is mostly good at the others, and one budget alone has too few trials to learn from. Without the median,
    a mediocre recipe at 70 % of the FLOPs would rank above a good one at 30 %.
    """
    groups: dict[int, dict[int, float]] = {}
    for result in history:
        # A free trial with the FLOPs of a budget says as much about it as one that was solved onto it.
        # A free trial is solved onto no budget, but its FLOPs may be near one.
        nearest = min(budgets, key=lambda flops: abs(flops - result.recipe.budget), default=None)
        accuracy = accuracy_at_end(result)
        if nearest is not None and accuracy is not None and abs(result.recipe.budget - nearest) <= _NEAR_BUDGET * nearest:
            groups.setdefault(nearest, {})[result.number] = accuracy
    return {
        number: [accuracy - statistics.median(group.values())] for group in groups.values() for number, accuracy in group.items()
    }


def accuracy_at_end(result: TrialResult) -> float | None:
    """The accuracy of a complete trial; None for all others."""
    if result.state is not TrialState.COMPLETE or result.accuracy is None or not math.isfinite(result.accuracy):
        return None
    return result.accuracy


class SharedTrial(FrozenTrial):
    """A trial that nothing changes any more, so that studies share its parts: where Optuna asks for a deep copy it gets a shallow one."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedTrial:
        return copy.copy(self)


def as_trials(
    history: Sequence[TrialResult],
    values: Values,
    replayed: Callable[[Recipe], Replay | None],
    *,
    single_objective: bool = True,
    system_attributes: Callable[[int], dict[str, Any]] = lambda complete: {},
) -> list[FrozenTrial]:
    """At most `MAX_STUDY_TRIALS` Optuna trials, in the order of `history`. A complete trial without `values` is left out.

    `replayed` gives a recipe's parameters, or None. `system_attributes` gives what a complete trial stores, by the number
    of complete trials before it.
    """
    medians = _stopped_medians(history)
    rows = []
    for result in history:
        facts = None if result.duplicate_of is not None else _state_and_values(result, values.get(result.number))
        if facts is not None and (replay := replayed(result.recipe)) is not None:
            if result.state is TrialState.STOPPED:
                facts |= _partial_result(result, medians[result.recipe.budget], single_objective=single_objective)
            rows.append((facts, replay))
    trials, complete = [], 0
    # Attributes such as a generation count the complete trials of the study, not those of the history.
    for facts, replay in _most_informative(rows):
        if "values" in facts:
            # Only complete trials are counted: generations consist of these.
            facts["system_attrs"] = system_attributes(complete)
            complete += 1
        trials.append(_trial(replay, facts))
    return trials


def _most_informative(rows: list[tuple[dict[str, Any], Replay]]) -> list[tuple[dict[str, Any], Replay]]:
    """The best and the running trials, filled up with the latest."""
    if len(rows) <= MAX_STUDY_TRIALS:
        return rows
    complete = [index for index, (facts, _) in enumerate(rows) if "values" in facts]
    # Accuracy is the first objective in both kinds of study.
    best = sorted(complete, key=lambda index: rows[index][0]["values"][0], reverse=True)
    kept = set(best[: int(MAX_STUDY_TRIALS * BEST_SHARE)])
    # Without a running trial the sampler would propose its recipe again.
    kept |= {index for index, (facts, _) in enumerate(rows) if not facts["state"].is_finished()}
    for index in reversed(range(len(rows))):
        if len(kept) >= MAX_STUDY_TRIALS:
            break
        kept.add(index)
    return [rows[index] for index in sorted(kept)]


def _trial(replay: Replay, facts: dict[str, Any]) -> FrozenTrial:
    state: optuna.trial.TrialState = facts["state"]
    constraints: dict[str, float] = facts.get("constraints", {})
    trial = SharedTrial(
        # The study numbers its trials when they are added.
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


def _state_and_values(result: TrialResult, values: list[float] | None) -> dict[str, Any] | None:
    """The table of this module's docstring; None where the trial is left out."""
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
    """By budget: trials stopped at different budgets are compared by how much they are above their own median."""
    groups: dict[int, list[float]] = {}
    for result in history:
        if result.state is TrialState.STOPPED:
            groups.setdefault(result.recipe.budget, []).append(result.accuracy or 0.0)
    return {budget: statistics.median(group) for budget, group in groups.items()}


def _partial_result(result: TrialResult, median: float, *, single_objective: bool) -> dict[str, Any]:
    """How far a stopped trial came, and its accuracy there."""
    epochs, accuracy = result.epochs or 0.0, result.accuracy or 0.0
    facts: dict[str, Any] = {"user_attrs": {"epochs": epochs, "accuracy": accuracy}}
    # Steps are whole numbers in Optuna, epochs are fractions.
    return facts | ({"intermediate_values": {round(1000 * epochs): accuracy - median}} if single_objective else {})


def _is_foreign(record: logging.LogRecord) -> bool:
    return _STUDY not in record.getMessage()


# Optuna logs every new study, and a search makes hundreds. The user's own studies are still logged.
logging.getLogger("optuna.storages._in_memory").addFilter(_is_foreign)
