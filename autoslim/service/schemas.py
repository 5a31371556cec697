"""What the API answers with."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, Field

from autoslim.config import read_json
from autoslim.core.result import ParetoFront, TrialResult
from autoslim.service.settings import ServiceSettings
from autoslim.store import Event, FailureClass, QueuedJob, QueueState, StoredJob, StoredTrial
from autoslim.store.progress import Progress


class View(BaseModel):
    pass


class ProgressView(View):
    """`best` is the highest validation accuracy so far by the label of the budget."""

    trials_done: int
    trials: int
    best: dict[str, float]


class FailureView(View):
    """One class, one sentence, one command that goes on from here."""

    failure_class: FailureClass = Field(serialization_alias="class")
    message: str
    next: str


class Links(View):
    """Paths on this service; `mlflow` and `ray` are addresses, where the operator gave them."""

    self: str
    events: str
    trials: str
    front: str
    logs: str
    artifacts: str
    cancel: str
    mlflow: str | None
    ray: str | None


class JobView(View):
    """Dates are RFC 3339 in UTC. `queue_position` counts the jobs that are to be begun before this one."""

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
    progress: ProgressView
    failure: FailureView | None
    result: dict[str, Any] | None
    links: Links


class JobPage(View):
    """`next_page_token` is null on the last page."""

    jobs: list[JobView]
    next_page_token: str | None


class EventView(View):
    """`seq` rises, over all jobs."""

    seq: int
    at: str
    type: str
    data: dict[str, Any]


class EventPage(View):
    """`next_after` is what to ask for next, as `after`."""

    events: list[EventView]
    next_after: int


class StepView(View):
    method: str
    knobs: dict[str, Any]


class TrialView(View):
    """FLOPs are multiply-accumulates per image, accuracies top-1 shares on the validation split; `target` is a budget's label or `free`."""

    number: int
    state: str
    target: str
    origin: str
    method: str
    steps: list[StepView]
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


class TrialPage(View):
    """In number order."""

    trials: list[TrialView]
    next_page_token: str | None


class DenseView(View):
    flops: int
    accuracy: float
    params: int
    chance: float


class FrontView(View):
    """Complete trials that no other beats, cheapest first; `chosen` are those handed over, by the label of the budget."""

    dense: DenseView | None
    front: list[TrialView]
    chosen: dict[str, int]
    hypervolume: float | None


class ArtifactView(View):
    """`name` is the path below the job's artifacts."""

    name: str
    bytes: int
    sha256: str
    media_type: str


class ArtifactList(View):
    artifacts: list[ArtifactView]


class MethodReach(View):
    """The cheapest and the dearest model that the method makes of this one, in multiply-accumulates; null where it makes none."""

    name: str
    least: int | None
    most: int | None
    least_params: int | None = None
    reaches: bool


class BudgetPlan(View):
    label: str
    flops: int
    reachable: bool
    methods: list[MethodReach]


class EstimateView(View):
    """Work and room at most; how long it takes depends on the workers. `bytes` is the disk needed, besides the images."""

    images_trained: int
    images_adapting: int
    multiply_accumulates: float
    bytes: int


class PlanView(View):
    dense_flops: int
    parameters: int
    classes: int
    images: dict[str, int]
    budgets: list[BudgetPlan]
    left_out: dict[str, str]
    trials: int
    epochs: float
    estimate: EstimateView


class MethodView(View):
    name: str
    paper: str


class Capabilities(View):
    """What a spec may ask for here."""

    version: str
    models: list[str]
    model_args: dict[str, str]
    methods: list[MethodView]
    spaces: list[str]
    datasets: list[str]
    paths: bool
    pretrained: bool
    samplers: list[str]
    augmentations: list[str]
    limits: dict[str, float]


class Health(View):
    status: str


class Readiness(View):
    """`dependencies` by name: `ok`, `unreachable`, or `not configured`. Only the store is needed to take jobs."""

    ready: bool
    dependencies: dict[str, str]


def job_view(
    job: QueuedJob, progress: Progress | None, *, position: int | None, spec: dict[str, Any], settings: ServiceSettings
) -> JobView:
    """`spec` is the job's as its user knows it."""
    fields = (
        "id",
        "tenant",
        "name",
        "state",
        "reason",
        "priority",
        "created_at",
        "updated_at",
        "started_at",
        "ended_at",
        "attempt",
    )
    return JobView(
        **{field: getattr(job, field) for field in fields},
        cancel_requested_at=job.cancel_requested_at,
        queue_position=position,
        spec=spec,
        progress=ProgressView(
            trials_done=progress.ended if progress else 0,
            trials=read_json(job.spec).most_trials,
            best=progress.best if progress else {},
        ),
        failure=None
        if job.failure is None
        else FailureView(failure_class=job.failure.failure_class, message=job.failure.message, next=job.failure.next),
        result=None if job.result is None else json.loads(job.result),
        links=_links(job, progress, settings),
    )


def _links(job: QueuedJob, progress: Progress | None, settings: ServiceSettings) -> Links:
    here = f"/v1/jobs/{job.id}"
    run = progress.mlflow_run if progress else None
    mlflow = f"{settings.mlflow_url.rstrip('/')}/#/runs/{run}" if settings.mlflow_url and run else None
    ray = None
    if settings.ray_dashboard_url and job.attempt:
        ray = f"{settings.ray_dashboard_url.rstrip('/')}/#/jobs/{job.id}-a{job.attempt}"
    parts = ("events", "trials", "front", "logs", "artifacts")
    return Links(self=here, **{part: f"{here}/{part}" for part in parts}, cancel=f"{here}:cancel", mlflow=mlflow, ray=ray)


def event_view(event: Event) -> EventView:
    return EventView(seq=event.seq, at=event.at, type=event.type, data=event.data)


def trial_view(trial: StoredTrial) -> TrialView:
    result = trial.result
    same = (
        "number",
        "origin",
        "accuracy",
        "accuracy_after_pruning",
        "flops",
        "flops_mean",
        "flops_max",
        "params",
        "epochs",
        "seconds",
    )
    return TrialView(
        **{field: getattr(result, field) for field in same},
        duplicate_of=result.duplicate_of,
        error_class=result.error_class,
        error=result.error,
        state=result.state.value,
        method=result.recipe.method,
        steps=[StepView(method=step.method, knobs=step.knobs) for step in result.recipe.steps],
        budget=result.recipe.budget,
        target=trial.target,
        attempt=trial.attempt,
        started_at=trial.started_at,
        ended_at=trial.ended_at,
    )


def front_view(job: StoredJob | None, trials: list[StoredTrial]) -> FrontView:
    """`job` is None for one that has not begun."""
    by_number: dict[int, StoredTrial] = {trial.result.number: trial for trial in trials}
    results: list[TrialResult] = [trial.result for trial in trials]
    front = ParetoFront.of(results)
    base = job.base if job else None
    return FrontView(
        dense=None
        if base is None
        else DenseView(flops=base.dense_flops, accuracy=base.dense_accuracy, params=base.params, chance=base.chance),
        front=[trial_view(by_number[result.number]) for result in front.results],
        chosen=job.chosen if job else {},
        hypervolume=None if base is None else front.hypervolume(dense_flops=base.dense_flops, chance=base.chance),
    )
