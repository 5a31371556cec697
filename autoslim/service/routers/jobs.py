"""Submits, lists, shows, cancels and purges jobs."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import StringConstraints

from autoslim.config import InfeasibleSpecError, JobSpec, SpecError, ValidationIssue
from autoslim.core import logs
from autoslim.errors import NotFoundError
from autoslim.service.app_state import AppState, State
from autoslim.service.auth import Reader, Submitter
from autoslim.service.conditional import etag_response
from autoslim.service.dry_run.client import DryRunError
from autoslim.service.dry_run.preflight import check
from autoslim.service.pagination import decode_page_token, encode_page_token
from autoslim.service.problems import ProblemError, problem_responses
from autoslim.service.routers.body import SPEC_BODY, Spec
from autoslim.service.routers.dependencies import ChangeableJob, ReadableJob
from autoslim.service.schemas import JobPage, JobResponse, job_response
from autoslim.store import QueuedJob, QueueState

_log = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"])

IdempotencyKey = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[!-~]+$")] | None,
    Header(alias="Idempotency-Key", description="The same key with the same body gives the same job."),
]


@router.post(
    "/v1/jobs",
    status_code=201,
    response_model=JobResponse,
    openapi_extra=SPEC_BODY,
    responses={
        200: {"model": JobResponse, "description": "The job that the same key and body created before."},
        **problem_responses(413, 415, 422),
    },
)
async def submit(
    request: Request, identity: Submitter, state: State, spec: Spec, idempotency_key: IdempotencyKey = None
) -> Response:
    """Queues a job. A spec that is known to fail is refused."""
    if await state.run_sync(state.queue.unfinished, identity.tenant) >= state.settings.limits.queued:
        detail = f"{state.settings.limits.queued} jobs of this tenant are queued or running, the maximum"
        raise ProblemError(429, "queue-full", detail, headers={"Retry-After": "60"})
    checked = await checked_spec(state, spec, identity.tenant)
    await _refuse_infeasible(state, checked)
    job, created = await state.run_sync(
        state.queue.submit,
        checked.model_dump_json(),
        tenant=identity.tenant,
        name=checked.name,
        priority=checked.priority,
        idempotency_key=idempotency_key,
    )
    logs.job_id.set(job.id)
    if created:
        _log.info("job submitted", extra={"tenant": identity.tenant, "job_id": job.id})
    response = await _response(state, job)
    return etag_response(request, response, status=201 if created else 200, headers={"Location": response.links.self})


@router.get("/v1/jobs", response_model=JobPage, responses=problem_responses(422))
async def list_jobs(
    identity: Reader,
    state: State,
    states: Annotated[list[QueueState] | None, Query(alias="state", max_length=len(QueueState))] = None,
    label: Annotated[str | None, Query(max_length=63, description="The `name` of the jobs.")] = None,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    page_token: Annotated[str | None, Query(max_length=200)] = None,
) -> JobPage:
    """Lists jobs, newest first."""
    before = decode_page_token(page_token)
    found = await state.run_sync(
        state.queue.list, identity.visible_tenant, states=states, name=label, limit=page_size + 1, before=before
    )
    jobs = await state.run_sync(_responses, state, found[:page_size])
    return JobPage(jobs=jobs, next_page_token=encode_page_token(found[page_size - 1].id) if len(found) > page_size else None)


@router.get(
    "/v1/jobs/{job_id:job}", response_model=JobResponse, responses={304: {"description": "Unchanged"}, **problem_responses(404)}
)
async def show(request: Request, job: ReadableJob, state: State) -> Response:
    """Shows a job. Supports If-None-Match; Retry-After is the time to the next poll."""
    headers = {} if job.state.ended else {"Retry-After": "2" if job.state.running else "5"}
    return etag_response(request, await _response(state, job), headers=headers)


@router.post("/v1/jobs/{job_id:job}:cancel", status_code=202, response_model=JobResponse, responses=problem_responses(404))
async def cancel(request: Request, job: ChangeableJob, state: State) -> Response:
    """Requests cancellation, in every state and any number of times; a running job stops within seconds and keeps its trials."""
    cancelled = await state.run_sync(state.queue.request_cancel, job.id)
    _log.info("cancellation requested", extra={"job_id": job.id})
    return etag_response(request, await _response(state, cancelled), status=202)


@router.delete("/v1/jobs/{job_id:job}", status_code=204, responses=problem_responses(404, 409))
async def purge(job: ChangeableJob, state: State) -> Response:
    """Deletes an ended job with its files, trials and events. Its runs in MLflow stay."""
    if not job.state.ended:
        detail = f"the job is {job.state}; only an ended job can be purged, so cancel it first"
        raise ProblemError(409, "not-ended", detail)
    await state.run_sync(_purge, state, job)
    _log.info("job purged", extra={"job_id": job.id})
    return Response(status_code=204)


async def checked_spec(state: AppState, spec: JobSpec, tenant: str) -> JobSpec:
    """The spec with resolved names and paths; the jobs that it reuses are the tenant's.

    Raises:
        SpecError: naming every field that is wrong.
        DryRunError: when the dry-run process, which knows the names of models and spaces, does not answer.
    """
    facts = await state.dry_runner.facts()
    checked = check(spec, catalog=state.catalog, limits=state.settings.limits, models=facts["models"], spaces=facts["spaces"])
    await state.run_sync(_refuse_foreign, state, checked, tenant)
    return checked


async def make_plan(state: AppState, spec: JobSpec) -> dict[str, Any]:
    """The plan of a checked spec.

    Raises:
        SpecError: naming the field that makes the search impossible, and none of the operator's paths.
        DryRunError: when the dry-run process does not answer in time.
    """
    try:
        return await state.dry_runner.dry_run(spec)
    except SpecError as error:
        issues = [dataclasses.replace(issue, problem=state.public_text.of(issue.problem)) for issue in error.issues]
        raise type(error)(issues) from error


def _refuse_foreign(state: AppState, spec: JobSpec, tenant: str) -> None:
    """An unknown job and another tenant's give the same issue."""
    issues = []
    for index, source in enumerate(spec.reuse):
        if source != "all":
            try:
                state.queue.get(source, tenant)
            except NotFoundError:
                issues.append(ValidationIssue(place=("reuse", index), problem=f"is {source!r}; allowed: a job of yours, or all"))
    if issues:
        raise SpecError(issues)


async def _refuse_infeasible(state: AppState, spec: JobSpec) -> None:
    """A spec that cannot be planned in time is queued all the same: its driver checks everything again."""
    try:
        plan = await make_plan(state, spec)
    except DryRunError as error:
        _log.warning("submitted without a plan: %s", error)
        return
    issues = [_infeasible(spec, index, budget) for index, budget in enumerate(plan["budgets"]) if not budget["feasible"]]
    if issues:
        raise InfeasibleSpecError(issues)


def _infeasible(spec: JobSpec, index: int, budget: dict[str, object]) -> ValidationIssue:
    methods, flops = budget["methods"], budget["flops"]
    assert isinstance(methods, list)
    assert isinstance(flops, int)
    if any(method["min_flops"] is not None and method["min_flops"] <= flops for method in methods):
        # Some method reaches the FLOPs and, or the plan would have been refused, some method the parameters.
        reached = ", ".join(
            f"{method['name']} {method['min_params']:,} parameters and {method['min_flops']:,} multiply-accumulates"
            for method in methods
            if method["min_params"] is not None
        )
        problem = f"is {spec.params!r}, which no method in the space meets together with {budget['label']}; the minimum of each: {reached}"
        return ValidationIssue(place=("params",), problem=problem)
    reached = ", ".join(
        f"{method['name']} {method['min_flops']:,} and more" for method in methods if method["min_flops"] is not None
    )
    problem = f"is {budget['label']!r}, {flops:,} multiply-accumulates, which nothing in the space reaches; allowed: {reached}"
    return ValidationIssue(place=("flops", index), problem=problem)


def _purge(state: AppState, job: QueuedJob) -> None:
    """Files first: an interrupted purge can be requested again as long as the job is in the queue."""
    folder = state.settings.folder(job.id)
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    state.queue.purge(job.id)


async def _response(state: AppState, job: QueuedJob) -> JobResponse:
    responses = await state.run_sync(_responses, state, [job])
    return responses[0]


def _responses(state: AppState, jobs: list[QueuedJob]) -> list[JobResponse]:
    progress = state.store.progress([job.id for job in jobs if job.attempt])
    positions = state.queue.positions([job.id for job in jobs if job.state is QueueState.QUEUED])
    return [
        job_response(
            job,
            progress.get(job.id),
            queue_position=positions.get(job.id),
            spec=state.catalog.public_spec(json.loads(job.spec)),
            settings=state.settings,
            public=state.public_text,
        )
        for job in jobs
    ]
