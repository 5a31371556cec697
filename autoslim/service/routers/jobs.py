"""Submits, lists, shows, cancels and purges jobs."""

from __future__ import annotations

import json
import logging
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import StringConstraints

from autoslim.core import logs
from autoslim.service.app_state import AppState, State
from autoslim.service.auth import Reader, Submitter
from autoslim.service.conditional import etag_response
from autoslim.service.pagination import decode_page_token, encode_page_token
from autoslim.service.problems import ProblemError, problem_responses
from autoslim.service.retention import remove_job
from autoslim.service.routers.body import SPEC_BODY, Spec
from autoslim.service.routers.dependencies import ChangeableJob, ReadableJob
from autoslim.service.schemas import JobPage, JobResponse, job_response
from autoslim.service.submission import submit_job
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
        **problem_responses(413, 415, 422, 429),
    },
)
async def submit(
    request: Request, identity: Submitter, state: State, spec: Spec, idempotency_key: IdempotencyKey = None
) -> Response:
    """Queues a job. A spec that is known to fail is refused; one whose plan takes longer is queued, and fails when its plan shows it."""
    job, created = await submit_job(state, spec, tenant=identity.tenant, idempotency_key=idempotency_key)
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
    await state.run_sync(remove_job, state.settings, state.queue, job.id)
    _log.info("job purged", extra={"job_id": job.id})
    return Response(status_code=204)


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
            facts=state.stored_specs.facts(job.spec),
            settings=state.settings,
            public=state.public_text,
        )
        for job in jobs
    ]
