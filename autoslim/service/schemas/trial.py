"""Trials and their Pareto front as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, create_model

from autoslim.core.result import BaseFacts, ParetoFront, TrialResult, measurement_fields
from autoslim.core.score import Score
from autoslim.service.public_text import PublicText
from autoslim.store import StoredJob, StoredTrial


class RecipeStep(BaseModel):
    """One method of a recipe with the values of its knobs."""

    method: str
    knobs: dict[str, Any]


_Measured = create_model(
    "_Measured",
    **{name: (kind | None, Field(description=text)) for name, (kind, text) in measurement_fields().items()},  # type: ignore[call-overload]
)


class TrialResponse(_Measured):  # type: ignore[misc, valid-type]
    """A trial with its measurements. `target` is the label of the budget that the recipe was solved for, or `free`.

    `model` is the name of the dense model that the recipe starts from, where the search has several.
    """

    number: int
    state: str
    target: str
    origin: str
    method: str
    model: str | None
    steps: list[RecipeStep]
    budget: int
    duplicate_of: int | None
    error_class: str | None
    error: str | None
    attempt: int
    started_at: str
    ended_at: str | None


class TrialPage(BaseModel):
    """In the order of the trials' numbers. `next_page_token` is null on the last page.

    `score` is what the trials are compared by, in all fields that are called accuracy, as in their job.
    """

    score: str
    trials: list[TrialResponse]
    next_page_token: str | None


class DenseBaseline(BaseModel):
    """The dense model fine-tuned on the data; `chance` is the accuracy of always answering the most frequent class, 0 for features,
    `teacher` the model whose soft labels its trials learn from, where that is another one.
    """

    flops: int
    accuracy: float
    params: int
    chance: float
    teacher: str | None = None


class FrontResponse(BaseModel):
    """Complete trials that no other trial dominates, cheapest first; `selected` has the chosen models' trials by budget label.

    Where the search starts from several dense models, `models` has each by its name, and `dense` is the first.

    `hypervolume` is the share of the area between chance at no FLOPs and a perfect model at the dense FLOPs that the front dominates.

    `score` is what the trials are compared by, in all fields that are called accuracy, as in their job.
    """

    score: str
    dense: DenseBaseline | None
    models: dict[str, DenseBaseline]
    front: list[TrialResponse]
    selected: dict[str, int]
    hypervolume: float | None


def trial_response(trial: StoredTrial, public: PublicText) -> TrialResponse:
    result = trial.result
    return TrialResponse(
        **result.measurements(),
        number=result.number,
        origin=result.origin.value,
        duplicate_of=result.duplicate_of,
        error_class=result.error_class,
        error=None if result.error is None else public.of(result.error),
        state=result.state.value,
        method=result.recipe.method,
        model=result.recipe.model or None,
        steps=[RecipeStep(method=step.method, knobs=step.knobs) for step in result.recipe.steps],
        budget=result.recipe.budget,
        target=trial.target,
        attempt=trial.attempt,
        started_at=trial.started_at,
        ended_at=trial.ended_at,
    )


def front_response(job: StoredJob | None, trials: Sequence[StoredTrial], public: PublicText, *, score: Score) -> FrontResponse:
    """`job` is None for one that has not started."""
    by_number: dict[int, StoredTrial] = {trial.result.number: trial for trial in trials}
    results: list[TrialResult] = [trial.result for trial in trials]
    front = ParetoFront.of(results)
    base = job.base if job else None
    return FrontResponse(
        score=score.name,
        dense=None if base is None else _baseline(base, base.teacher.get(next(iter(base.starts), ""))),
        models={} if base is None else {label: _baseline(facts, base.teacher.get(label)) for label, facts in base.starts.items()},
        front=[trial_response(by_number[result.number], public) for result in front.results],
        selected=job.chosen if job else {},
        hypervolume=None if base is None else front.hypervolume(dense_flops=base.front_flops, chance=base.chance),
    )


def _baseline(base: BaseFacts, teacher: str | None) -> DenseBaseline:
    return DenseBaseline(
        flops=base.dense_flops, accuracy=base.dense_accuracy, params=base.params, chance=base.chance, teacher=teacher
    )
