"""Plans of jobs that are queued without one, also of those that another process of the API has left so.

While a service runs, such a job is not started: its plan may show that it asks for more than its tenant may have.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from autoslim.config import InfeasibleSpecError, JobSpec, SpecError, read_json
from autoslim.errors import AutoslimError, QuotaError, UnavailableError
from autoslim.service.app_state import AppState
from autoslim.service.dry_run.errors import (
    DryRunError,
    PlanCrashedError,
    PlannerEndedError,
    PlannerStartingError,
    PlanOverdueError,
    PlanQueueFullError,
)
from autoslim.service.planning import checked_spec, make_plan, quota_of, refuse_by_plan, work_of
from autoslim.service.settings import RequestLimits
from autoslim.store import Failure, FailureClass

_log = logging.getLogger(__name__)

# A job that waits for its plan is not started for so many times the time of a plan. After that it is: no service runs that would make the
# plan, and the driver finds whatever is wrong with the spec itself.
_HOLD = 5.0
# The hold is renewed so often within its time.
_RENEWALS = 5.0
# Seconds before another try with a planner that is starting, or has ended; and with one that cannot be started, of which the log has the
# reason at every try.
_AGAIN_SECONDS = 1.0
_BROKEN_SECONDS = 30.0


def hold_seconds(limits: RequestLimits) -> float:
    """How long a job without a plan is kept from being started."""
    return _HOLD * limits.plan_seconds


def begin(state: AppState, job_id: str, tenant: str, *, sent: JobSpec | None = None) -> None:
    """Plans a queued job, unless that has begun. `sent` is its spec before names were resolved; without it the stored one is planned."""
    if job_id not in state.late_jobs:
        state.late_jobs.add(job_id)
        state.background.begin(_follow(state, job_id, tenant, sent))


async def keep(state: AppState) -> None:
    """Keeps all jobs without a plan from being started, and plans those that nobody plans. Runs as long as the service."""
    seconds = hold_seconds(state.settings.limits)
    while True:
        try:
            for job in await state.run_sync(state.queue.hold_unplanned, seconds):
                begin(state, job.id, job.tenant)
        except UnavailableError as error:
            _log.warning("jobs without a plan could not be kept waiting: %s", error)
        await asyncio.sleep(seconds / _RENEWALS)


async def _follow(state: AppState, job_id: str, tenant: str, sent: JobSpec | None) -> None:
    try:
        spec, plan = await _plan_at_last(state, job_id, tenant, sent)
        refuse_by_plan(state, spec, plan)
        await state.run_sync(state.queue.set_planned, job_id, work_of(plan), quota_of(state))
    except (SpecError, QuotaError, PlanOverdueError, PlanCrashedError) as error:
        if isinstance(error, PlanCrashedError):
            _log.error("the plan of a job failed", exc_info=error, extra={"job_id": job_id})
        if await state.run_sync(state.queue.refuse, job_id, _failure(error)):
            _log.info("job refused by its plan", extra={"tenant": tenant, "job_id": job_id})
    finally:
        # What has failed for the database is begun again at the next round.
        state.late_jobs.discard(job_id)


async def _plan_at_last(state: AppState, job_id: str, tenant: str, sent: JobSpec | None) -> tuple[JobSpec, dict[str, Any]]:
    while True:
        try:
            if sent is None:
                spec = read_json((await state.run_sync(state.queue.get, job_id)).spec)
            else:
                spec = await checked_spec(state, sent, tenant)
            return spec, await make_plan(state, spec, tenant)
        except PlanQueueFullError as full:
            await asyncio.sleep(full.retry_after)
        except (PlannerStartingError, PlannerEndedError) as error:
            _log.info("a job waits for its plan: %s", error, extra={"job_id": job_id})
            await asyncio.sleep(_AGAIN_SECONDS)
        except (PlanOverdueError, PlanCrashedError):
            raise
        except DryRunError as error:
            # Without a plan nobody knows whether the job is within its tenant's limits.
            _log.error("a job waits for its plan, and there is no planner", exc_info=error, extra={"job_id": job_id})
            await asyncio.sleep(_BROKEN_SECONDS)


def _failure(error: AutoslimError) -> Failure:
    if isinstance(error, PlanCrashedError):
        # Its message is a traceback.
        message = "the plan of this job failed with an error of the service, whose log has it under the job's id"
        return Failure(failure_class=FailureClass.BUG, message=message, next="autoslim plan job.yaml")
    kind = FailureClass.INFEASIBLE if isinstance(error, InfeasibleSpecError) else FailureClass.REQUEST
    return Failure(failure_class=kind, message=str(error), next="autoslim plan job.yaml")
