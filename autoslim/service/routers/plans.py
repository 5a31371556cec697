"""Plans: whether a spec is feasible and what it costs, without running it."""

from __future__ import annotations

from fastapi import APIRouter

from autoslim.service.app_state import State
from autoslim.service.auth import Submitter
from autoslim.service.planning import checked_spec, make_plan
from autoslim.service.problems import problem_responses
from autoslim.service.routers.body import SPEC_BODY, Spec
from autoslim.service.schemas import PlanResponse

router = APIRouter(tags=["plans"])


@router.post("/v1/plans", openapi_extra=SPEC_BODY, responses=problem_responses(413, 415, 422, 429))
async def plan(identity: Submitter, state: State, spec: Spec) -> PlanResponse:
    """The cost range of every method for this model, and the work of the search. Nothing is stored."""
    checked = await checked_spec(state, spec, identity.tenant)
    return PlanResponse.model_validate(await make_plan(state, checked, identity.tenant))
