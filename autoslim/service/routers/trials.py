"""A job's trials and their Pareto front."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from autoslim.service.app_state import AppState, State
from autoslim.service.pagination import decode_page_token, encode_page_token
from autoslim.service.problems import problem_responses
from autoslim.service.routers.dependencies import ReadableJob
from autoslim.service.schemas import FrontResponse, TrialPage, front_response, trial_response
from autoslim.store import QueuedJob

router = APIRouter(tags=["trials"])


@router.get("/v1/jobs/{job_id:job}/trials", responses=problem_responses(404, 422))
async def trials(
    job: ReadableJob,
    state: State,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 200,
    page_token: Annotated[str | None, Query(max_length=200)] = None,
) -> TrialPage:
    """Lists all trials by number, running ones included."""
    cursor = decode_page_token(page_token, digits=True)
    after = -1 if cursor is None else int(cursor)
    found = await state.run_sync(state.store.stored_trials, job.id, after=after, limit=page_size + 1)
    page = [trial_response(trial, state.public_text) for trial in found[:page_size]]
    return TrialPage(
        score=state.stored_specs.facts(job.spec).score.name,
        trials=page,
        next_page_token=encode_page_token(str(page[-1].number)) if len(found) > page_size else None,
    )


@router.get("/v1/jobs/{job_id:job}/front", responses=problem_responses(404))
async def front(job: ReadableJob, state: State) -> FrontResponse:
    """The Pareto front of the complete trials; empty while there are none."""
    return await state.run_sync(_front, state, job)


def _front(state: AppState, job: QueuedJob) -> FrontResponse:
    trials = state.store.stored_trials(job.id)
    return front_response(state.store.find_job(job.id), trials, state.public_text, score=state.stored_specs.facts(job.spec).score)
