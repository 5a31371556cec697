"""What a spec could reach, without doing any of it."""

from __future__ import annotations

from fastapi import APIRouter

from autoslim.service.auth import Shared, Submitter
from autoslim.service.problems import documented
from autoslim.service.routers.body import BODY, Spec
from autoslim.service.routers.jobs import checked_spec
from autoslim.service.schemas import PlanView

router = APIRouter(tags=["plans"])


@router.post("/v1/plans", openapi_extra=BODY, responses=documented(413, 415, 422))
async def plan(_: Submitter, shared: Shared, spec: Spec) -> PlanView:
    """The reach of every method, and how much work a search would be. Nothing is kept."""
    return PlanView.model_validate(await shared.planner.plan(await checked_spec(shared, spec)))
