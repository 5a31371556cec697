"""Which settings of a recipe mattered: permutation importance (Breiman, 2001) of a random forest over the trials of a search.

It is measured on trials that the forest was not fitted to. What the forest explains of those is the bound of what it can say.
Shapes: T trials, S settings.
"""

from __future__ import annotations

import dataclasses
import json
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoslim.core.result import Origin, TrialResult, TrialState

FEWEST = 16
"""Trials with a score that are needed: with fewer, each fold would judge by three."""

_FOLDS, _TREES, _REPEATS = 4, 48, 3
_ABSENT = -1.0
"""A setting that the recipe does not have, one below the least of those that do; one split of a tree separates it."""

_ELSEWHERE = ("epochs",)
"""Training settings that are among the others by another name: the epochs that a trial was trained for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importance:
    """`explained` is the cross-validated R² on `trials` trials. `losses` has for each setting, the most important first, by how much
    the mean absolute error of the predicted score grows when its values are shuffled among the trials.
    """

    explained: float
    trials: int
    losses: tuple[tuple[str, float], ...]


def observations(results: Sequence[TrialResult]) -> list[TrialResult]:
    """The trials of this search that have a score: complete ones, and those that were stopped early."""
    scored = (TrialState.COMPLETE, TrialState.STOPPED)
    return [
        result
        for result in results
        if result.state in scored and result.accuracy is not None and result.flops is not None
        if result.duplicate_of is None and result.origin is not Origin.REUSED
    ]


def setting_importance(results: Sequence[TrialResult]) -> Importance | None:
    """None where there are fewer than `FEWEST` observations, or no setting differs among them. A function of its argument."""
    observed = observations(results)
    names, x_TS = _encoded([_settings_of(result) for result in observed])
    if len(observed) < FEWEST or not names:
        return None
    # Takes seconds to import, and small searches do not come here.
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold

    y_T = np.array([result.accuracy for result in observed], np.float64)
    predicted_T, losses_S = np.zeros(len(y_T)), np.zeros(len(names))
    for fitted, held_out in KFold(_FOLDS, shuffle=True, random_state=0).split(x_TS):
        forest = RandomForestRegressor(_TREES, min_samples_leaf=2, max_features=0.5, random_state=0, n_jobs=1)
        forest.fit(x_TS[fitted], y_T[fitted])
        predicted_T[held_out] = forest.predict(x_TS[held_out])
        # The error, and not R², which means little on a handful of trials.
        found = permutation_importance(
            forest,
            x_TS[held_out],
            y_T[held_out],
            scoring="neg_mean_absolute_error",
            n_repeats=_REPEATS,
            random_state=0,
            n_jobs=1,
        )
        losses_S += found.importances_mean * len(held_out) / len(y_T)
    ranked = sorted(zip(names, losses_S.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return Importance(explained=float(r2_score(y_T, predicted_T)), trials=len(observed), losses=tuple(ranked))


def _settings_of(result: TrialResult) -> dict[str, Any]:
    """By the names that the report shows."""
    recipe = result.recipe
    training = {name: value for name, value in recipe.training.to_dict().items() if name not in _ELSEWHERE}
    return {
        "method": recipe.method,
        "dense model": recipe.model,
        "FLOPs": result.flops,
        "epochs trained": result.epochs or 0.0,
        **recipe.flat_knobs,
        **{f"training.{name}": value for name, value in training.items()},
    }


def _encoded(rows: Sequence[dict[str, Any]]) -> tuple[list[str], NDArray[np.float64]]:
    """The settings that differ, and their values (T, S)."""
    names, columns = [], []
    for name in dict.fromkeys(name for row in rows for name in row):
        column = _numbers([row.get(name) for row in rows])
        if len(set(column)) > 1:
            names.append(name)
            columns.append(column)
    return names, np.array(columns, np.float64).T


def _numbers(values: Sequence[Any]) -> list[float]:
    """Numbers as they are, anything else as its place among the values in the order of their texts."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in known):
        absent = min(known, default=0.0) + _ABSENT
        return [float(absent if value is None else value) for value in values]
    texts = [None if value is None else json.dumps(value, sort_keys=True) for value in values]
    places = {text: float(place) for place, text in enumerate(sorted({text for text in texts if text is not None}))}
    return [_ABSENT if text is None else places[text] for text in texts]
