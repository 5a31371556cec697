"""A job as the API shows it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from autoslim.core.result import with_current_names
from autoslim.service.public_text import PublicText
from autoslim.service.settings import ServiceSettings
from autoslim.service.stored_specs import SpecFacts
from autoslim.store import FailureClass, QueuedJob, QueueState
from autoslim.store.progress import SearchProgress


class BestTrial(BaseModel):
    """The best trial within a budget so far. `accuracy` is the job's `score` on validation images, `budget_share` flops / budget, `model`
    the dense model that it starts from, where the search has several.
    """

    trial: int
    method: str
    model: str | None = None
    accuracy: float
    flops: int
    budget_share: float


class JobProgress(BaseModel):
    """`best` is the best trial so far, by budget label."""

    trials_ended: int
    trials_total: int
    best: dict[str, BestTrial]


class JobFailure(BaseModel):
    """Why a job failed; `next` is the command that helps."""

    failure_class: FailureClass
    message: str
    next: str


class JobResult(BaseModel):
    """How a search ended. Dictionaries are by budget label, except `trials`: the number of trials by state.

    `missing` are the budgets, or the goal, without a model, `why_missing` says so in a sentence each. `lines` has each model's accuracy on
    the test images beside the dense model's and its speed, `recommended` the model that the numbers speak for, both in words; `reasons` say
    why each model was selected. `images` is the size of the splits `validation` and `test`. FLOPs are multiply-accumulates per image,
    accuracies the job's `score`. `logged` is false where MLflow lacks a part.
    """

    # The driver may be of another version: a newer one reports more, an older one less.
    model_config = ConfigDict(extra="allow")

    models: list[dict[str, Any]] = []
    missing: list[str] = []
    why_missing: dict[str, str] = {}
    dense: dict[str, float] | None = None
    trials: dict[str, int] = {}
    logged: bool | None = None
    lines: dict[str, str] = {}
    recommended: str = ""
    reasons: dict[str, str] = {}
    images: dict[str, int] = {}
    cost: dict[str, Any] | None = None

    @classmethod
    def stored(cls, text: str, public: PublicText | None = None) -> JobResult:
        """The result that a driver stored as JSON. A driver of version 0.1 used former names, and did not state `budget_share`."""
        data = json.loads(text)
        if public is not None:
            data = public.within(data)
        models = [with_current_names(model) for model in data.get("models", [])]
        for model in models:
            if "budget_share" not in model and model.get("budget") and model.get("flops"):
                model["budget_share"] = model["flops"] / model["budget"]
        return cls(**{**data, "models": models})


class JobLinks(BaseModel):
    """Paths on this service; `mlflow` and `ray` are URLs, where the operator set them."""

    self: str
    events: str
    trials: str
    front: str
    logs: str
    artifacts: str
    cancel: str
    mlflow: str | None
    ray: str | None


class JobResponse(BaseModel):
    """Times are RFC 3339 in UTC. `queue_position` is the number of queued jobs that start before this one, as of a second ago at most.

    `score` is what trials are compared by, in all fields that are called accuracy: `accuracy`, a top-1 share, or `agreement` with the dense
    model's features.
    """

    id: str
    tenant: str
    name: str | None
    state: QueueState
    reason: str | None
    priority: int
    created_at: str
    updated_at: str
    started_at: str | None
    ended_at: str | None
    cancel_requested_at: str | None
    attempt: int
    queue_position: int | None
    spec: dict[str, Any]
    score: str
    progress: JobProgress
    failure: JobFailure | None
    result: JobResult | None
    links: JobLinks


class JobPage(BaseModel):
    """`next_page_token` is null on the last page."""

    jobs: list[JobResponse]
    next_page_token: str | None


# Fields that a job of the queue and its response have in common.
_SAME = (
    "id", "tenant", "name", "state", "priority", "created_at", "updated_at", "started_at", "ended_at", "cancel_requested_at",
    "attempt",
)  # fmt: skip


def job_response(
    job: QueuedJob,
    progress: SearchProgress | None,
    *,
    queue_position: int | None,
    spec: dict[str, Any],
    facts: SpecFacts,
    settings: ServiceSettings,
    public: PublicText,
) -> JobResponse:
    """`spec` is the one to show, with the operator's paths replaced by names, `facts` are of the stored one;
    `progress` is None before the first attempt.
    """
    return JobResponse(
        **{field: getattr(job, field) for field in _SAME},
        reason=_reason(job, public),
        queue_position=queue_position,
        spec=spec,
        score=facts.score.name,
        progress=JobProgress(
            trials_ended=progress.ended if progress else 0,
            trials_total=facts.most_trials,
            best=_best(progress) if progress else {},
        ),
        failure=None if job.failure is None else JobFailure(**public.within(job.failure.to_dict())),
        result=None if job.result is None else JobResult.stored(job.result, public),
        links=_links(job, progress, settings),
    )


def _reason(job: QueuedJob, public: PublicText) -> str | None:
    """With what the user can do about it. A full disk or a lost cluster is the operator's to mend."""
    if job.reason is None:
        return None
    told = public.of(job.reason)
    if job.state is QueueState.PAUSED:
        return f"{told}; the job resumes by itself when this is over, `autoslim cancel {job.id}` gives it up"
    return told


def _best(progress: SearchProgress) -> dict[str, BestTrial]:
    return {
        label: BestTrial(
            trial=result.number,
            method=result.recipe.method,
            model=result.recipe.model or None,
            accuracy=result.accuracy or 0.0,
            flops=result.flops or 0,
            # The goal's model has no budget but its own cost.
            budget_share=(result.flops or 0) / progress.budgets[label] if label in progress.budgets else 1.0,
        )
        for label, result in progress.best.items()
    }


def _links(job: QueuedJob, progress: SearchProgress | None, settings: ServiceSettings) -> JobLinks:
    here = f"/v1/jobs/{job.id}"
    run = progress.mlflow_run if progress else None
    mlflow = f"{settings.mlflow_url.rstrip('/')}/#/runs/{run}" if settings.mlflow_url and run else None
    ray = None
    if settings.ray_dashboard_url and job.attempt:
        ray = f"{settings.ray_dashboard_url.rstrip('/')}/#/jobs/{job.id}-a{job.attempt}"
    parts = ("events", "trials", "front", "logs", "artifacts")
    return JobLinks(self=here, **{part: f"{here}/{part}" for part in parts}, cancel=f"{here}:cancel", mlflow=mlflow, ray=ray)
