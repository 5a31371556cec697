"""Trials and their Pareto front as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from autoslim.core.result import ParetoFront, TrialResult
from autoslim.store import StoredJob, StoredTrial


class RecipeStep(BaseModel):
    """One method of a recipe with the values of its knobs."""

    method: str
    knobs: dict[str, Any]


class TrialResponse(BaseModel):
    """FLOPs are multiply-accumulates per image, accuracies top-1 shares on the validation images, `seconds` is wall time.

    `target` is the label of the budget that the recipe was made for, or `free`.
    """

    number: int
    state: str
    target: str
    origin: str
    method: str
    steps: list[RecipeStep]
    budget: int
    accuracy: float | None
    accuracy_after_pruning: float | None
    flops: int | None
    flops_mean: int | None
    flops_max: int | None
    params: int | None
    epochs: float | None
    seconds: float | None
    duplicate_of: int | None
    error_class: str | None
    error: str | None
    attempt: int
    started_at: str
    ended_at: str | None


class TrialPage(BaseModel):
    """In the order of the trials' numbers. `next_page_token` is null on the last page."""

    trials: list[TrialResponse]
    next_page_token: str | None


class DenseBaseline(BaseModel):
    """The dense model fine-tuned on the data; `chance` is the accuracy of always answering the most frequent class."""

    flops: int
    accuracy: float
    params: int
    chance: float


class FrontResponse(BaseModel):
    """Complete trials that no other trial dominates, cheapest first; `selected` are the final models' trials by budget label.

    `hypervolume` is the share of the area between chance at no FLOPs and a perfect model at the dense FLOPs that the front dominates.
    """

    dense: DenseBaseline | None
    front: list[TrialResponse]
    selected: dict[str, int]
    hypervolume: float | None


# Fields that a trial's result and its response have in common.
_SAME = (
    "number", "origin", "accuracy", "accuracy_after_pruning", "flops", "flops_mean", "flops_max", "params", "epochs", "seconds",
    "duplicate_of", "error_class", "error",
)  # fmt: skip


def trial_response(trial: StoredTrial) -> TrialResponse:
    result = trial.result
    return TrialResponse(
        **{field: getattr(result, field) for field in _SAME},
        state=result.state.value,
        method=result.recipe.method,
        steps=[RecipeStep(method=step.method, knobs=step.knobs) for step in result.recipe.steps],
        budget=result.recipe.budget,
        target=trial.target,
        attempt=trial.attempt,
        started_at=trial.started_at,
        ended_at=trial.ended_at,
    )


def front_response(job: StoredJob | None, trials: Sequence[StoredTrial]) -> FrontResponse:
    """`job` is None for one that has not started."""
    by_number: dict[int, StoredTrial] = {trial.result.number: trial for trial in trials}
    results: list[TrialResult] = [trial.result for trial in trials]
    front = ParetoFront.of(results)
    base = job.base if job else None
    return FrontResponse(
        dense=None
        if base is None
        else DenseBaseline(flops=base.dense_flops, accuracy=base.dense_accuracy, params=base.params, chance=base.chance),
        front=[trial_response(by_number[result.number]) for result in front.results],
        selected=job.chosen if job else {},
        hypervolume=None if base is None else front.hypervolume(dense_flops=base.dense_flops, chance=base.chance),
    )
