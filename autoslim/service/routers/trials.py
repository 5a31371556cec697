"""A job's trials, and those that no other beats."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from autoslim.service.app_state import AppState
from autoslim.service.auth import Shared
from autoslim.service.pagination import cursor_of, token_of
from autoslim.service.problems import documented
from autoslim.service.routers.dependencies import ReadJob
from autoslim.service.schemas import FrontView, TrialPage, front_view, trial_view

router = APIRouter(tags=["trials"])


@router.get("/v1/jobs/{job_id:job}/trials", responses=documented(404, 422))
async def trials(
    job: ReadJob,
    shared: Shared,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 200,
    page_token: Annotated[str | None, Query(max_length=200)] = None,
) -> TrialPage:
    """In number order; running ones, too."""
    cursor = cursor_of(page_token, digits=True)
    after = -1 if cursor is None else int(cursor)
    found = await shared.run(shared.store.stored_trials, job.id, after=after, limit=page_size + 1)
    views = [trial_view(trial) for trial in found[:page_size]]
    return TrialPage(trials=views, next_page_token=token_of(str(views[-1].number)) if len(found) > page_size else None)


@router.get("/v1/jobs/{job_id:job}/front", responses=documented(404))
async def front(job: ReadJob, shared: Shared) -> FrontView:
    """Empty as long as no trial is complete."""
    return await shared.run(_front, shared, job.id)


def _front(shared: AppState, job_id: str) -> FrontView:
    return front_view(shared.store.find_job(job_id), shared.store.stored_trials(job_id))
