"""Submitting a job: answered within seconds, with its plan where that is at hand, and otherwise before it.

A plan takes from milliseconds to a minute, the start of the planner minutes, and a client that waits for them gives up without knowing
whether there is a job. So a submit waits for the plan for `limits.submit_seconds` only. A job that is queued without one is not started
until its plan has come; if the plan shows that it cannot be done, the job fails with the same message as a submit would have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from autoslim.config import JobSpec
from autoslim.service import late_plans
from autoslim.service.app_state import AppState
from autoslim.service.dry_run.errors import DryRunError
from autoslim.service.planning import check_spec, make_plan, quota_of, refuse_by_plan, work_of
from autoslim.store import QueuedJob

_log = logging.getLogger(__name__)
T = TypeVar("T")


async def submit_job(
    state: AppState, spec: JobSpec, *, tenant: str, idempotency_key: str | None = None
) -> tuple[QueuedJob, bool]:
    """The job, and whether it is new.

    Raises:
        SpecError: naming every field that is wrong, as far as it is known in time.
        IdempotencyError: when the key was used with another request.
        QuotaError: when the tenant has as much in the queue as it may.
    """
    # The answer to a repeated submit is the job that there is, whatever has happened to limits and plans since.
    known = idempotency_key is not None and await state.run_sync(state.queue.was_submitted, tenant, idempotency_key)
    deadline = asyncio.get_running_loop().time() + (0.0 if known else state.settings.limits.submit_seconds)
    capabilities: Mapping[str, Any] | None = state.dry_runner.planner.known_capabilities
    if capabilities is None:
        capabilities = await _until(deadline, state.dry_runner.capabilities())
    checked = await check_spec(state, spec, capabilities, tenant)
    plan = None if known else await _until(deadline, make_plan(state, checked, tenant))
    if plan is not None:
        refuse_by_plan(state, checked, plan)
    job, created = await state.run_sync(
        state.queue.submit,
        checked.model_dump_json(),
        tenant=tenant,
        name=checked.name,
        priority=checked.priority,
        idempotency_key=idempotency_key,
        work=None if plan is None else work_of(plan),
        quota=quota_of(state),
        unplanned_seconds=late_plans.hold_seconds(state.settings.limits) if plan is None else 0.0,
    )
    if created and plan is None:
        late_plans.begin(state, job.id, tenant, sent=spec)
    return job, created


async def _until(deadline: float, answer: Awaitable[T]) -> T | None:
    """None where the planner has no answer in time; `deadline` is on the event loop's clock."""
    try:
        async with asyncio.timeout_at(deadline):
            return await answer
    except TimeoutError:
        return None
    except DryRunError as error:
        _log.warning("a job is submitted before its plan: %s", error)
        return None
