"""Submit, list, look, cancel, purge."""

from __future__ import annotations

import json
import logging
import shutil
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import StringConstraints

from autoslim.config import InfeasibleSpecError, JobSpec, SpecError, ValidationIssue
from autoslim.core import logs
from autoslim.errors import NotFoundError
from autoslim.service.app_state import AppState
from autoslim.service.auth import Reader, Shared, Submitter
from autoslim.service.pagination import answer, cursor_of, token_of
from autoslim.service.planning.client import PlannerError
from autoslim.service.planning.preflight import check
from autoslim.service.problems import ProblemError, documented
from autoslim.service.routers.body import BODY, Spec
from autoslim.service.routers.dependencies import ChangeJob, ReadJob
from autoslim.service.schemas import JobPage, JobView, job_view
from autoslim.store import QueuedJob, QueueState

_log = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"])

Key = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[!-~]+$")] | None,
    Header(alias="Idempotency-Key", description="The same key with the same body gives the same job."),
]


@router.post(
    "/v1/jobs",
    status_code=201,
    response_model=JobView,
    openapi_extra=BODY,
    responses={
        200: {"model": JobView, "description": "The job that this key and body made before."},
        **documented(413, 415, 422),
    },
)
async def submit(request: Request, identity: Submitter, shared: Shared, spec: Spec, key: Key = None) -> Response:
    """Puts a job into the queue. What can be known to fail is refused here."""
    if await shared.run(shared.queue.unfinished, identity.tenant) >= shared.settings.limits.queued:
        detail = f"{shared.settings.limits.queued} jobs of this tenant are waiting or running, the most there may be"
        raise ProblemError(429, "queue-full", detail, headers={"Retry-After": "60"})
    checked = await checked_spec(shared, spec)
    await shared.run(_refuse_foreign, shared, checked, identity.tenant)
    await _refuse_unreachable(shared, checked)
    job, created = await shared.run(
        shared.queue.submit,
        checked.model_dump_json(),
        tenant=identity.tenant,
        name=checked.name,
        priority=checked.priority,
        idempotency_key=key,
    )
    logs.job_id.set(job.id)
    if created:
        _log.info("job submitted", extra={"tenant": identity.tenant, "job_id": job.id})
    view = await _view(shared, job)
    return answer(request, view, status=201 if created else 200, headers={"Location": view.links.self})


@router.get("/v1/jobs", response_model=JobPage, responses=documented(422))
async def list_jobs(
    identity: Reader,
    shared: Shared,
    state: Annotated[list[QueueState] | None, Query(max_length=len(QueueState))] = None,
    label: Annotated[str | None, Query(max_length=63, description="The jobs' name.")] = None,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    page_token: Annotated[str | None, Query(max_length=200)] = None,
) -> JobPage:
    """Newest first."""
    before = cursor_of(page_token)
    found = await shared.run(shared.queue.list, identity.sees, states=state, name=label, limit=page_size + 1, before=before)
    views = await shared.run(_views, shared, found[:page_size])
    return JobPage(jobs=views, next_page_token=token_of(found[page_size - 1].id) if len(found) > page_size else None)


@router.get("/v1/jobs/{job_id:job}", response_model=JobView, responses={304: {"description": "Unchanged"}, **documented(404)})
async def show(request: Request, job: ReadJob, shared: Shared) -> Response:
    """With If-None-Match, 304 while nothing has changed. Retry-After says when to look again."""
    headers = {} if job.state.ended else {"Retry-After": "2" if job.state.running else "5"}
    return answer(request, await _view(shared, job), headers=headers)


@router.post("/v1/jobs/{job_id:job}:cancel", status_code=202, response_model=JobView, responses=documented(404))
async def cancel(request: Request, job: ChangeJob, shared: Shared) -> Response:
    """Works in every state, any number of times; a running job ends within seconds and keeps what it has found."""
    cancelled = await shared.run(shared.queue.request_cancel, job.id)
    _log.info("cancellation asked for", extra={"job_id": job.id})
    return answer(request, await _view(shared, cancelled), status=202)


@router.delete("/v1/jobs/{job_id:job}", status_code=204, responses=documented(404, 409))
async def purge(job: ChangeJob, shared: Shared) -> Response:
    """Removes an ended job: its files, its trials and its events. What MLflow has stays there."""
    if not job.state.ended:
        detail = f"the job is {job.state}; only an ended job can be removed, so cancel it first"
        raise ProblemError(409, "not-ended", detail)
    await shared.run(_purge, shared, job)
    _log.info("job purged", extra={"job_id": job.id})
    return Response(status_code=204)


async def checked_spec(shared: AppState, spec: JobSpec) -> JobSpec:
    """Raises SpecError; PlannerError when it cannot be known which names there are."""
    facts = await shared.planner.facts()
    return check(spec, catalog=shared.catalog, limits=shared.settings.limits, models=facts["models"], spaces=facts["spaces"])


def _refuse_foreign(shared: AppState, spec: JobSpec, tenant: str) -> None:
    """Another tenant's job and one that never was give the same answer."""
    issues = []
    for index, source in enumerate(spec.reuse):
        if source != "all":
            try:
                shared.queue.get(source, tenant)
            except NotFoundError:
                issues.append(ValidationIssue(place=("reuse", index), problem=f"is {source!r}; allowed: a job of yours, or all"))
    if issues:
        raise SpecError(issues)


async def _refuse_unreachable(shared: AppState, spec: JobSpec) -> None:
    """A spec that takes too long to plan is left to its driver, which checks everything again."""
    try:
        plan = await shared.planner.plan(spec)
    except PlannerError as error:
        _log.warning("submitted without a plan: %s", error)
        return
    issues = [_unreachable(spec, index, budget) for index, budget in enumerate(plan["budgets"]) if not budget["reachable"]]
    if issues:
        raise InfeasibleSpecError(issues)


def _unreachable(spec: JobSpec, index: int, budget: dict[str, object]) -> ValidationIssue:
    methods, flops = budget["methods"], budget["flops"]
    assert isinstance(methods, list)
    assert isinstance(flops, int)
    if any(method["least"] is not None and method["least"] <= flops for method in methods):
        # Some method reaches the FLOPs and, or the plan would have been refused, some method the parameters.
        reached = ", ".join(
            f"{method['name']} {method['least_params']:,} parameters and {method['least']:,} multiply-accumulates"
            for method in methods
            if method["least_params"] is not None
        )
        told = f"is {spec.params!r}, which no method in the space reaches together with {budget['label']}; the least of each is {reached}"
        return ValidationIssue(place=("params",), problem=told)
    reached = ", ".join(f"{method['name']} {method['least']:,} and more" for method in methods if method["least"] is not None)
    told = f"is {budget['label']!r}, {flops:,} multiply-accumulates, which nothing in the space reaches; allowed: {reached}"
    return ValidationIssue(place=("flops", index), problem=told)


def _purge(shared: AppState, job: QueuedJob) -> None:
    """Files first: a purge that was cut short can be asked for again."""
    folder = shared.settings.folder(job.id)
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    shared.queue.purge(job.id)


async def _view(shared: AppState, job: QueuedJob) -> JobView:
    views = await shared.run(_views, shared, [job])
    return views[0]


def _views(shared: AppState, jobs: list[QueuedJob]) -> list[JobView]:
    progress = shared.store.progress([job.id for job in jobs if job.attempt])
    positions = shared.queue.positions([job.id for job in jobs if job.state is QueueState.QUEUED])
    return [
        job_view(
            job,
            progress.get(job.id),
            position=positions.get(job.id),
            spec=shared.catalog.public(json.loads(job.spec)),
            settings=shared.settings,
        )
        for job in jobs
    ]
